"""The run: recipes, DeepSpeed engine, the loop, checkpoints, conversion.

Imports no torch: a command answers --help without it.
"""

import os

# Read when torch is imported: large tensors on a CPU in huge pages, else their memory is zeroed page by page, each time
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Captions have no rows for padding, so each step asks a GPU for other sizes, which fixed segments would fragment
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
