"""A call of every kernel at the sizes of BEiT-3 giant, with few rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.kernels.expert_norm import expert_norm
from model.kernels.expert_rows import ExpertRows
from model.kernels.token_assembly import ImagePieces, TextPieces, assemble_tokens

DIM, FFN_DIM = 1408, 6144
ROWS = ExpertRows((4, 10, 16))


def giant_calls() -> Iterator[Callable[[], None]]:
    x, weights = _random(16, DIM), _random(3, DIM)
    yield partial(_forward_and_backward, expert_norm, x, weights, weights, ROWS, "triton")
    images = ImagePieces(_random(3, 4, DIM), _random(DIM), _random(DIM), _random(5, DIM))
    texts = TextPieces(_random(13, DIM), _random(4, DIM))
    masks = [torch.zeros(shape, dtype=torch.bool) for shape in ((3, 4), (3, 3), (1, 4))]
    yield partial(_forward_and_backward, assemble_tokens, images, texts, *masks, "triton")


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def _forward_and_backward(function: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> None:
    outputs = function(*args)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
