"""The definitions compiled by torch.compile, for `kernels` compile.

They are pure functions, their weights arguments: under ZeRO-3 a compiled module breaks at the hook of every gather.
"""

import functools
import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
MOST_GRAPHS = 64


@functools.cache
def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """The function as one graph: compiled for the sizes of the first batch, and once more where they change, as numbers
    of captions' rows do, for any. Each width and kind of call counts towards torch's limit, after which it raises."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    return torch.compile(function, fullgraph=True)


def require_compiler(device: torch.device, has_triton: bool) -> None:
    """Raises ValueError where torch.compile lacks what it generates code for."""
    if device.type == "cuda" and not has_triton:
        raise ValueError("kernels is compile, which needs Triton on a GPU; install it (CUDA builds of torch bring it)")
    compiler = os.environ.get("CXX", "g++")
    if device.type != "cuda" and shutil.which(compiler) is None:
        raise ValueError(f"kernels is compile, which needs a C++ compiler, and there is no {compiler}; install one")
