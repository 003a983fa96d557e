"""Triton, or a stand-in if it is not installed, so that every file of this folder can be imported without it.

Launching a kernel on tensors of the meta device only reports the launch: pretrain/planning measures memory and counts
operations there.
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
on_meta_launch: list[Callable[[str, list[Any]], None]] = []
"""Functions that are called with a kernel's name and arguments when it is launched on the meta device."""
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
        if not args or not getattr(args[0], "is_meta", False):
            return launch(*args, **options)
        for report in on_meta_launch:
            report(function.__name__, [*args, *options.values()])
        return None

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
