"""Operations of NVIDIA apex, if installed: github.com/NVIDIA/apex, not the package of that name on PyPI.

Its fused_dense_gelu_dense is not used, because its GELU is the tanh approximation.
"""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear


def require_apex(device: torch.device) -> None:
    """Raise ValueError if apex cannot run on a device."""
    if device.type != "cuda":
        raise ValueError("kernels is apex, which needs a GPU; set kernels to auto or reference")
    if importlib.util.find_spec("apex") is None:
        raise ValueError("kernels is apex, which is not installed; build it from github.com/NVIDIA/apex")
    spec = importlib.util.find_spec("apex")
    places = (spec.submodule_search_locations if spec is not None else None) or []
    if not any(
        (Path(place) / "normalization").is_dir() for place in places
    ):  # not imported, as importing the other project fails
        raise ValueError(
            "the installed package apex is not NVIDIA's but another project of that name; "
            "uninstall it and build github.com/NVIDIA/apex"
        )
    for extension in ("fused_layer_norm_cuda", "fused_dense_cuda"):
        if importlib.util.find_spec(extension) is None and not any(
            list(Path(place).glob(f"**/{extension}*")) for place in places
        ):
            raise ValueError(
                f"NVIDIA apex is installed without its extension {extension}; build it with APEX_CUDA_EXT=1"
            )


def apex_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the LayerNorm of x (N, D); weight, bias: (D,)."""
    if len(x) == 0:  # launching a kernel with no blocks is an error in CUDA
        return layer_norm(x, weight.shape, weight, bias, eps)
    function = importlib.import_module("apex.normalization.fused_layer_norm").fused_layer_norm_affine
    return function(x, weight, bias, tuple(weight.shape), eps)


def apex_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight.T + bias, the bias added inside the matrix product. x: (N, D); weight: (F, D); bias: (F,)."""
    if len(x) == 0:
        return linear(x, weight, bias)
    return importlib.import_module("apex.fused_dense").FusedDenseFunc.apply(x, weight, bias)
