"""NVIDIA apex's operations, where it is installed: github.com/NVIDIA/apex, not PyPI's package of that name.

Its fused_dense_gelu_dense is left out: its GELU is the one with tanh.
"""

import importlib
import importlib.util

import torch
from torch import Tensor


def require_apex(device: torch.device) -> None:
    """Raises ValueError where it cannot run."""
    if device.type != "cuda":
        raise ValueError("kernels is apex, which needs a GPU; set kernels to auto or reference")
    if importlib.util.find_spec("apex") is None:
        raise ValueError("kernels is apex, which is not installed; build it from github.com/NVIDIA/apex")
    if importlib.util.find_spec("apex.normalization") is None:
        raise ValueError(
            "the installed package apex is not NVIDIA's but another project of that name; "
            "uninstall it and build github.com/NVIDIA/apex"
        )
    for extension in ("fused_layer_norm_cuda", "fused_dense_cuda"):
        if importlib.util.find_spec(extension) is None and importlib.util.find_spec(f"apex.{extension}") is None:
            raise ValueError(
                f"NVIDIA apex is installed without its extension {extension}; build it with APEX_CUDA_EXT=1"
            )


def apex_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x: (N, D); weight, bias: (D,)."""
    function = importlib.import_module("apex.normalization.fused_layer_norm").fused_layer_norm_affine
    return function(x, weight, bias, tuple(weight.shape), eps)


def apex_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (N, D); weight: (F, D); bias: (F,). The bias is added by the matrix product."""
    return importlib.import_module("apex.fused_dense").FusedDenseFunc.apply(x, weight, bias)
