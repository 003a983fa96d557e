"""The run: recipes, DeepSpeed engine, the loop, checkpoints, conversion."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when DeepSpeed is imported; it would search and warn
