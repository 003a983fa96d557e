"""How does a run go from its config to its last step? The loop, the step, the log."""

import pretrain.engine  # noqa: F401 (sets what DeepSpeed reads when it is imported)
