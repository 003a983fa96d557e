"""Imports of timm and torchscale beside a CPU build of torch.

torchvision has no such build; its CUDA build imports once the two operators that it misses are declared.
"""

import importlib
from types import ModuleType

import torch


def import_beside_cpu_torch(name: str) -> ModuleType:
    """A module that imports torchvision on its way."""
    for operator in ("nms", "qnms"):
        if torch.version.cuda is None and not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
    return importlib.import_module(name)
