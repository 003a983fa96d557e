"""A call of every kernel at the sizes of BEiT-3 giant, with few rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.kernels.block_masks import block_image_masks
from model.kernels.expert_norm import expert_norm
from model.kernels.expert_rows import ExpertRows
from model.kernels.text_masks import mask_texts

DIM, FFN_DIM = 1408, 6144
ROWS = ExpertRows((4, 10, 16))


def giant_calls() -> Iterator[Callable[[], object]]:
    x, weights = _random(16, DIM), _random(3, DIM)
    yield partial(_forward_and_backward, expert_norm, x, weights, weights, ROWS, "triton")
    yield partial(block_image_masks, 0, torch.arange(16), 16, 102, 16, "triton")
    ids = torch.zeros(16, 512, dtype=torch.int64)
    yield partial(mask_texts, 0, torch.arange(16), ids, ids == 1, 0.15, 64001, (4, 64001), "triton")


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def _forward_and_backward(function: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> None:
    outputs = function(*args)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
