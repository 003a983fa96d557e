"""The run: recipes, DeepSpeed engine, the loop, checkpoints, conversion."""

import os

# Read when torch is imported: large tensors on a CPU in huge pages, else their memory is zeroed page by page, each time
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported; it would search and warn
