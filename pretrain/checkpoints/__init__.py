"""How is the state of a run saved, found and loaded?"""

import pretrain.engine  # noqa: F401 (sets what DeepSpeed reads when it is imported)
