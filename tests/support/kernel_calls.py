"""Calls of every kernel at the widths of BEiT-3, with few rows."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.block_masks import block_image_masks
from model.kernels.expert_activation import expert_activation, launch_backward
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.kernels.expert_norm import expert_norm
from model.kernels.residual_norm import NormStatistics, residual_norm
from model.kernels.text_masks import mask_texts
from model.kernels.token_assembly import ImagePieces, TextPieces, assemble_tokens
from model.residual import Branch

FAMILY = {"base": (768, 3072), "large": (1024, 4096), "giant": (1408, 6144)}
"""Widths of a token and of an expert."""
ROWS = ExpertRows((4, 8, 12, 16), (0, 1, 1, 2))


def kernel_calls(dim: int, ffn_dim: int) -> Iterator[Callable[[], object]]:
    """Yield functions that call each kernel, forward and backward."""
    rows, bias_rows = ROWS, ExpertRows(ROWS.ends, (0, 0, 0, 0))
    x, vectors, bias = _random(16, dim), _random(3, dim), _random(1, dim)
    h, wide = _random(16, ffn_dim), _random(3, ffn_dim)
    yield partial(_forward_and_backward, expert_norm, x, vectors, vectors, rows, "triton")
    yield partial(_forward_and_backward, expert_activation, h, wide, wide, wide, rows, "triton")
    fc1, fc2 = [_random(ffn_dim, dim) for _ in range(3)], [_random(dim, ffn_dim) for _ in range(3)]
    weights = ExpertWeights(vectors, vectors, fc1, wide, wide, wide, fc2)
    for scale in (None, torch.ones(16)):
        branch = Branch(x, bias, bias_rows, scale)
        yield partial(_forward_and_backward, residual_norm, x, branch, vectors, vectors, rows, "triton")
        yield partial(_forward_and_backward, expert_ffn, x, branch, weights, rows, "triton")
    images = ImagePieces(_random(3, 4, dim), _random(dim), _random(dim), _random(5, dim))
    texts = TextPieces(_random(13, dim), _random(4, dim))
    masks, cu_seqlens = torch.zeros(3, 4, dtype=torch.bool), torch.tensor([0, 4, 6, 9, 13], dtype=torch.int32)
    positions = torch.zeros(13, dtype=torch.int64)
    yield partial(_forward_and_backward, assemble_tokens, images, texts, masks, positions, cu_seqlens, "triton")
    yield partial(block_image_masks, 0, torch.arange(16), 16, 102, 16, "triton")
    ids = torch.zeros(16, 512, dtype=torch.int64)
    yield partial(mask_texts, 0, torch.arange(16), ids, ids == 1, 0.15, 64001, (4, 64001), "triton")


def activation_calls(ffn_dim: int) -> Iterator[Callable[[], object]]:
    """Yield functions that call the kernels of the experts' activation alone, in all their variants."""
    h, wide = _random(16, ffn_dim), _random(3, ffn_dim)
    yield partial(_forward_and_backward, expert_activation, h, wide, wide, wide, ROWS, "triton")
    statistics = NormStatistics(torch.zeros(16), torch.ones(16))
    yield partial(launch_backward, h, statistics, wide, wide, wide, ROWS, torch.zeros_like(h), emit_y=True)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def _forward_and_backward(function: Callable[..., Tensor | tuple[Tensor, ...]], *args: object) -> None:
    outputs = function(*args)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
