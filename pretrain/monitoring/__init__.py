"""What can be seen of a run while it goes on? Figures of each step, for TensorBoard and others, and norms by part."""

import pretrain.engine  # noqa: F401 (sets what DeepSpeed reads when it is imported)
