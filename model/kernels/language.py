"""Triton, or a stand-in where it is not installed, so that every file of this folder can be imported without it."""

import os
from contextlib import suppress
from importlib import import_module
from types import SimpleNamespace
from typing import Any

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, one program after the other, on the CPU."""
INTERPRETED_ELEMENTS = 1 << 18
triton: Any = None
tl: Any = SimpleNamespace(constexpr=int)


def jit(function: Any = None, **options: Any) -> Any:
    """triton.jit; without Triton the function as it is, which nothing then calls."""
    return function if function is not None else jit


with suppress(ModuleNotFoundError):
    triton, tl = import_module("triton"), import_module("triton.language")
    jit = triton.jit


def block_size(width: int) -> int:
    """The power of two that holds a row of `width` elements."""
    return 1 << (width - 1).bit_length()


def samples_per_program(num_samples: int, width: int) -> int:
    """1; in the interpreter, which is slow by programs and not by elements, as many rows of `width` as fill a tile."""
    return max(1, min(block_size(max(1, num_samples)), INTERPRETED_ELEMENTS // width)) if IS_INTERPRETED else 1
