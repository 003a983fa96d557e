"""Cross entropy of a linear head at the masked positions, its logits never held whole.

    logits  = hidden @ weight^T + bias
    loss[m] = log(sum_c exp(logits[m, c])) - logits[m, labels[m]], 0 where labels[m] is -100

If there are few rows, all are computed in one go; else in chunks: a chunk's logits are dropped after its losses and
recomputed in backward, and the weight's gradient is summed over the chunks in float32. Bytes moved per logit with
bfloat16 weights, by hand:

| | forward | backward |
| --- | --- | --- |
| the fewest: tiles that never leave the chip (Cut Cross-Entropy, arXiv 2411.09009) | 0 | 0 |
| one chunk | 16: the product, float32, its log-softmax | 28: two gradients, bfloat16, two products, a sum |
| chunks | 16 | 44: the forward again |
| chunks with Liger's kernel | 12: no log-softmax is written | 40 |
| one chunk under torch.compile, which `kernels` compile takes | 6 | 8 |

Liger's cross entropy (github.com/linkedin/Liger-Kernel) can stand for torch's; nothing asks for it yet, for it
synchronises with the host (three times a forward, to look at the labels), and no GPU has shown that it wins.

Shapes: M masked positions, D dim, C classes.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

from model.stochastic_depth import IGNORED

CHUNK_BYTES = 256 * 2**20
"""Of a chunk's logits in float32. With log-softmax and gradients at most four times as much is alive."""

RowLosses = Callable[[Tensor, Tensor], Tensor]
"""Logits (M, C) and labels (M,) -> (M,) float32."""


def torch_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The definition, for logits (M, C)."""
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def liger_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The same by Liger. It writes the gradient over the logits; its losses have their dtype."""
    return _liger_cross_entropy()(logits.float(), labels, ignore_index=IGNORED, reduction="none")


@cache
def _liger_cross_entropy() -> Callable[..., Tensor]:
    try:
        return import_module("liger_kernel.transformers.functional").liger_cross_entropy
    except ImportError as error:
        raise ValueError("liger-kernel is not installed; pip install -c constraints.txt liger-kernel") from error


class _ChunkedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk_rows: int, row_losses: RowLosses
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk_rows, ctx.row_losses = chunk_rows, row_losses
        chunks = zip(hidden.split(chunk_rows), labels.split(chunk_rows), strict=True)
        return torch.cat([row_losses(linear(rows, weight, bias), asked) for rows, asked in chunks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        dhidden = torch.empty_like(hidden)
        dweight, dbias = (torch.zeros_like(parameter, dtype=torch.float32) for parameter in (weight, bias))
        chunks = (tensor.split(ctx.chunk_rows) for tensor in (hidden, labels, grads[0], dhidden))
        for rows, asked, dlosses, drows in zip(*chunks, strict=True):
            dlogits = _logit_gradients(linear(rows, weight, bias), asked, dlosses, ctx.row_losses)
            torch.mm(dlogits, weight, out=drows)
            dweight += dlogits.T @ rows
            dbias += dlogits.sum(0, dtype=torch.float32)
            del dlogits  # else it lives on beside the next chunk's logits
        return dhidden, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None, None


def _logit_gradients(logits: Tensor, labels: Tensor, dlosses: Tensor, row_losses: RowLosses) -> Tensor:
    with torch.enable_grad():
        logits = logits.requires_grad_()
        return torch.autograd.grad(row_losses(logits, labels), logits, dlosses)[0]


def masked_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, row_losses: RowLosses = torch_losses
) -> Tensor:
    """hidden: (M, D); weight: (C, D); bias: (C,); labels: (M,) classes, -100 = none. Returns (M,) float32 nats."""
    chunk_rows = max(1, CHUNK_BYTES // (4 * len(weight)))
    if len(hidden) <= chunk_rows:
        return row_losses(linear(hidden, weight, bias), labels)
    return _ChunkedLosses.apply(hidden, weight, bias, labels, chunk_rows, row_losses)
