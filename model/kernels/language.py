"""Triton, or a stand-in where it is not installed, so that every file of this folder can be imported without it.

A kernel that is launched on tensors of the meta device does nothing: pretrain/planning/memory.py plans with such.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, one program after the other, on the CPU."""
INTERPRETED_ELEMENTS = 1 << 18
triton: Any = None
tl: Any = SimpleNamespace(constexpr=int)


with suppress(ModuleNotFoundError):
    triton, tl = import_module("triton"), import_module("triton.language")


class _NotInstalled:
    """Stands for a kernel where there is no Triton."""

    def run(self, *args: Any, **options: Any) -> None:
        raise AssertionError("kernels need Triton")

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.run(*args, grid=grid, **options)


def jit(function: Any = None, **options: Any) -> Any:
    """triton.jit, whose launches on the meta device do nothing. The first argument of a launch is a tensor."""
    if function is None:
        return partial(jit, **options)
    kernel = _NotInstalled() if triton is None else triton.jit(function, **options)
    launch = kernel.run

    def run(*args: Any, **options: Any) -> Any:
        return None if args and getattr(args[0], "is_meta", False) else launch(*args, **options)

    kernel.run = run
    return kernel


def block_size(width: int) -> int:
    """The power of two that holds a row of `width` elements."""
    return 1 << (width - 1).bit_length()


def samples_per_program(num_samples: int, width: int) -> int:
    """1; in the interpreter, which is slow by programs and not by elements, as many rows of `width` as fill a tile."""
    return max(1, min(block_size(max(1, num_samples)), INTERPRETED_ELEMENTS // width)) if IS_INTERPRETED else 1
