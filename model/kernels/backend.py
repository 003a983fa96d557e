"""Who computes the operations of this folder: plain torch, our Triton kernels, or NVIDIA apex where it has them."""

import importlib.util
import os
from typing import Literal

import torch

from model.kernels.language import triton

KernelChoice = Literal["auto", "reference", "triton", "apex"]
"""What a user may ask for."""
Backend = Literal["reference", "triton", "apex"]
"""Who it is. apex has a LayerNorm; whatever else is asked of it, the reference does."""


def choose_backend(choice: KernelChoice, device: torch.device) -> Backend:
    """auto: Triton on a GPU, the reference elsewhere. Raises ValueError where what was asked for cannot run."""
    if choice == "auto":
        return "triton" if device.type == "cuda" and triton is not None else "reference"
    if choice == "triton":
        _require_triton(device)
    if choice == "apex":
        _require_apex(device)
    return choice


def _require_triton(device: torch.device) -> None:
    if triton is None:
        raise ValueError("kernels is triton, which is not installed; install it (CUDA builds of torch bring it)")
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("kernels is triton, which needs a GPU; set kernels to auto or reference")


def _require_apex(device: torch.device) -> None:
    if device.type != "cuda":
        raise ValueError("kernels is apex, which needs a GPU; set kernels to auto or reference")
    if importlib.util.find_spec("apex") is None:
        raise ValueError("kernels is apex, which is not installed; build it from github.com/NVIDIA/apex")
    if importlib.util.find_spec("apex.normalization") is None:
        raise ValueError(
            "the installed package apex is not NVIDIA's but another project of that name; "
            "uninstall it and build github.com/NVIDIA/apex"
        )
    if importlib.util.find_spec("fused_layer_norm_cuda") is None:
        raise ValueError("NVIDIA's apex was installed without its CUDA extensions; build it with APEX_CUDA_EXT=1")
