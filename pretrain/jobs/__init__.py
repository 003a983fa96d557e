"""What does a run train? A job supplies the data, the network, the inputs and losses of a step."""

import pretrain.engine  # noqa: F401 (sets what DeepSpeed reads when it is imported)
