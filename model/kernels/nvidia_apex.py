"""NVIDIA apex's operations, where it is installed: github.com/NVIDIA/apex, not PyPI's package of that name.

Its fused_dense_gelu_dense is left out: its GELU is the one with tanh.
"""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear


def require_apex(device: torch.device) -> None:
    """Raises ValueError where it cannot run."""
    if device.type != "cuda":
        raise ValueError("kernels is apex, which needs a GPU; set kernels to auto or reference")
    if importlib.util.find_spec("apex") is None:
        raise ValueError("kernels is apex, which is not installed; build it from github.com/NVIDIA/apex")
    spec = importlib.util.find_spec("apex")
    places = (spec.submodule_search_locations if spec is not None else None) or []
    if not any((Path(place) / "normalization").is_dir() for place in places):  # not imported: that fails for the other
        raise ValueError(
            "the installed package apex is not NVIDIA's but another project of that name; "
            "uninstall it and build github.com/NVIDIA/apex"
        )
    for extension in ("fused_layer_norm_cuda", "fused_dense_cuda"):
        if importlib.util.find_spec(extension) is None and not any(
            list(Path(place).glob(f"**/{extension}*")) for place in places
        ):
            raise ValueError(f"NVIDIA apex is there without its extension {extension}; build it with APEX_CUDA_EXT=1")


def apex_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x: (N, D); weight, bias: (D,)."""
    if len(x) == 0:  # a launch without blocks is an error
        return layer_norm(x, weight.shape, weight, bias, eps)
    function = importlib.import_module("apex.normalization.fused_layer_norm").fused_layer_norm_affine
    return function(x, weight, bias, tuple(weight.shape), eps)


def apex_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (N, D); weight: (F, D); bias: (F,). The bias is added by the matrix product."""
    if len(x) == 0:
        return linear(x, weight, bias)
    return importlib.import_module("apex.fused_dense").FusedDenseFunc.apply(x, weight, bias)
