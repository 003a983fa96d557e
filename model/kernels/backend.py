"""The implementation of the operations of this folder: plain torch, torch.compile, Triton kernels, or NVIDIA apex."""

from typing import Literal

import torch

from model.config import KernelChoice
from model.kernels.compiled import require_compiler
from model.kernels.language import IS_INTERPRETED, triton
from model.kernels.nvidia_apex import require_apex

Backend = Literal["reference", "compile", "triton", "apex"]
"""A resolved `KernelChoice`. compile covers norms, activation, sums, token assembly and the heads' loss, apex LayerNorm
and linear layers with a bias; the reference computes the rest."""


def choose_backend(choice: KernelChoice, device: torch.device) -> Backend:
    """Return the backend for a device; auto: Triton on a GPU, otherwise the reference.

    Raises ValueError if the chosen backend cannot run there.
    """
    if choice == "auto":
        return "triton" if device.type == "cuda" and triton is not None else "reference"
    if choice == "triton":
        _require_triton(device)
    if choice == "compile":
        require_compiler(device, triton is not None)
    if choice == "apex":
        require_apex(device)
    return choice


def _require_triton(device: torch.device) -> None:
    if device.type == "meta":  # where nothing is computed
        return
    if device.type != "cuda" and not IS_INTERPRETED:
        raise ValueError("kernels is triton, which needs a GPU; set kernels to auto or reference")
    if triton is None:
        raise ValueError("kernels is triton, which is not installed; install it (CUDA builds of torch bring it)")
