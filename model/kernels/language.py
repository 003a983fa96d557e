"""Triton, or a stand-in if it is not installed, so that every file of this folder can be imported without it.

Launching a kernel on tensors of the meta device does nothing: pretrain/planning/memory.py measures memory on it.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter: on the CPU, one program after the other."""
INTERPRETED_ELEMENTS = 1 << 18
"""Number of elements that a program of a mask kernel handles in the interpreter."""
triton: Any = None
tl: Any = SimpleNamespace(constexpr=int)


with suppress(ModuleNotFoundError):
    triton, tl = import_module("triton"), import_module("triton.language")


class _NotInstalled:
    """A stand-in for a kernel without Triton."""

    def run(self, *args: Any, **options: Any) -> None:
        raise AssertionError("kernels need Triton")

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.run(*args, grid=grid, **options)


def jit(function: Any = None, **options: Any) -> Any:
    """Compile like triton.jit, but launches on the meta device do nothing. A launch's first argument is a tensor."""
    if function is None:
        return partial(jit, **options)
    kernel = _NotInstalled() if triton is None else triton.jit(function, **options)
    launch = kernel.run

    def run(*args: Any, **options: Any) -> Any:
        return None if args and getattr(args[0], "is_meta", False) else launch(*args, **options)

    kernel.run = run
    return kernel


def block_size(width: int) -> int:
    """Return the smallest power of two that holds a row of `width` elements."""
    return 1 << (width - 1).bit_length()


def samples_per_program(num_samples: int, width: int) -> int:
    """Return the number of samples, rows of `width`, that a program of a mask kernel handles.

    One on a GPU. The interpreter's time goes by programs, not by elements, so there as many as fill a large tile.
    """
    return max(1, min(block_size(max(1, num_samples)), INTERPRETED_ELEMENTS // width)) if IS_INTERPRETED else 1
