"""The definitions compiled by torch.compile, for `kernels` compile.

Pure functions are compiled, which take their weights as arguments. A compiled module would break into one graph per
hook of ZeRO-3, which gathers weights before and frees them after every call.
"""

import functools
import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
MAX_GRAPHS = 64
"""Limit of compiled variants per function, instead of torch's 8: one per width, number of experts and kind of call."""


@functools.cache
def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function compiled as one graph.

    It is compiled for the sizes of the first call. When a size changes, as the number of captions' rows does, it is
    compiled once more for any value of that size. Raises torch's error after MAX_GRAPHS variants.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    return torch.compile(function, fullgraph=True)


def require_compiler(device: torch.device, has_triton: bool) -> None:
    """Raise ValueError if torch.compile lacks the compiler that it generates code for."""
    if device.type == "cuda" and not has_triton:
        raise ValueError("kernels is compile, which needs Triton on a GPU; install it (CUDA builds of torch bring it)")
    compiler = os.environ.get("CXX", "g++")
    if device.type != "cuda" and shutil.which(compiler) is None:
        raise ValueError(f"kernels is compile, which needs a C++ compiler, and there is no {compiler}; install one")
