"""NVIDIA apex's operations, where it is installed: github.com/NVIDIA/apex, not PyPI's package of that name.

Its fused_dense_gelu_dense is left out: its GELU is the one with tanh.
"""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear


def missing_of_apex(subpackage: str, *extensions: str) -> str | None:
    """Return why operations of apex cannot run, with the remedy, or None if they can.

    subpackage: the folder of the package that has them; extensions: the compiled modules that they call. Imports
    nothing: the other project of that name fails when it is imported.
    """
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return "NVIDIA apex is not installed; build it from github.com/NVIDIA/apex"
    places = [Path(place) for place in spec.submodule_search_locations or []]
    if not any((place / subpackage).is_dir() for place in places):
        return (
            "the installed package apex is not NVIDIA's but another project of that name; "
            "uninstall it and build github.com/NVIDIA/apex"
        )
    for extension in extensions:
        is_beside = any(list(place.glob(f"**/{extension}*")) for place in places)
        if importlib.util.find_spec(extension) is None and not is_beside:
            return f"NVIDIA apex is installed without its extension {extension}; build it with APEX_CUDA_EXT=1"
    return None


def require_apex(device: torch.device) -> None:
    """Raise ValueError if apex's layer norm and linear cannot run on a device."""
    if device.type != "cuda":
        raise ValueError("kernels is apex, which needs a GPU; set kernels to auto or reference")
    missing = missing_of_apex("normalization", "fused_layer_norm_cuda", "fused_dense_cuda")
    if missing is not None:
        raise ValueError(f"kernels is apex, but {missing}, or set kernels to auto or reference")


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
