"""How do memory and communication work? DeepSpeed, its config, the optimizer.

Packages whose modules import DeepSpeed import this one first.
"""

import os

import torch

if not torch.cuda.is_available():
    # Read when DeepSpeed is imported; without it DeepSpeed looks for every vendor's package, and warns
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
