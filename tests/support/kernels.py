"""Helpers of the tests of kernels: comparison of two backends, memory filled with NaN, odd row ranges.

Without a GPU the kernels run in Triton's interpreter (tests/conftest.py sets it), in float32.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.expert_rows import ExpertRows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ROWS = [
    ExpertRows((1,), (0,)),
    ExpertRows((19,), (0,)),
    ExpertRows((3, 7, 11, 19), (0, 0, 0, 0)),
    ExpertRows((3, 7, 11, 19), (0, 0, 1, 1)),
    ExpertRows((3, 7, 11, 19), (0, 1, 1, 2)),
    ExpertRows((0, 0, 0, 7), (0, 0, 1, 1)),
    ExpertRows((5, 5, 5, 5), (0, 1, 1, 2)),
    ExpertRows((5, 5, 5, 9), (0, 1, 1, 2)),
    ExpertRows((0, 0, 0, 0), (0, 1, 1, 2)),
]
"""Rows of one to three experts: odd numbers of rows, groups and experts without rows, no rows at all."""
SIZES = [(rows, 31) for rows in ROWS] + [(ROWS[4], width) for width in (3, 128, 129)]
"""Rows and their width: primes, a block, one more than a block."""


def random_tensors(seed: int, *shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Make torch.empty fill memory with NaN, or the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def outputs_and_gradients(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs of a function, then the gradients of all inputs for random gradients of the outputs."""
    outputs = function(*inputs)
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    generator = torch.Generator().manual_seed(7)
    grads = [torch.randn(output.shape, generator=generator).to(output) for output in outputs]
    gradients = torch.autograd.grad(outputs, list(inputs), grads)
    return [*(output.detach() for output in outputs), *gradients]


def assert_same(function: Callable[..., Any], reference: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Assert that outputs and all gradients of two functions agree to float32 rounding, in memory filled with NaN."""
    expected = outputs_and_gradients(reference, inputs)
    with poisoned_memory():
        found = outputs_and_gradients(function, inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def digest(*tensors: Tensor) -> str:
    """Return a hash of the bits of integers and booleans."""
    content = b"".join(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()[:16]
