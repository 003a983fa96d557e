"""A call of every kernel at the sizes of BEiT-3 giant, with few rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.kernels.expert_norm import expert_norm
from model.kernels.expert_rows import ExpertRows

DIM, FFN_DIM = 1408, 6144
ROWS = ExpertRows((4, 10, 16))


def giant_calls() -> Iterator[Callable[[], None]]:
    x, weights = _random(16, DIM), _random(3, DIM)
    yield partial(_forward_and_backward, expert_norm, x, weights, weights, ROWS, "triton")


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def _forward_and_backward(function: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> None:
    outputs = function(*args)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
