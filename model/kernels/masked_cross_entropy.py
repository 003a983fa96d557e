"""Cross entropy of a linear head at the masked positions, whose logits are never held all at once.

    logits  = hidden @ weight^T + bias
    loss[m] = log(sum_c exp(logits[m, c])) - logits[m, labels[m]], 0 if labels[m] is -100

Few rows are computed in one go. Many are computed in chunks: a chunk's logits are dropped after its losses and
recomputed in backward, and the weight's gradient is summed over the chunks in float32. 10,000 masked words with 64,010
classes would otherwise take 2.6 GB for the float32 logits, and as much for each of log-softmax and gradient. Bytes
moved per logit with bfloat16 weights, counted by hand:

| | forward | backward |
| --- | --- | --- |
| the fewest: tiles that never leave the chip (Cut Cross-Entropy, arXiv 2411.09009) | 0 | 0 |
| one chunk | 16: the product, float32, its log-softmax | 28: two gradients, bfloat16, two products, a sum |
| chunks | 16 | 44: the forward again |
| one chunk with `kernels` compile | 6 | 8 |

Liger's cross entropy (github.com/linkedin/Liger-Kernel) is not used: it synchronises with the host three times per
forward to look at the labels. tests/benchmarks/bench_kernels.py measures it.

Shapes: M masked positions, D dim, C classes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, linear

from model.kernels.backend import Backend
from model.kernels.compiled import compiled
from model.objective import IGNORE_INDEX

CHUNK_BYTES = 256 * 2**20
"""Size of a chunk's logits in float32. With log-softmax and gradients at most four times as much is alive."""


def row_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropies, (M,) float32, of logits (M, C) and labels (M,)."""
    return cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")


class _ChunkedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        chunk_rows: int,
        losses_of: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk_rows, ctx.losses_of = chunk_rows, losses_of
        chunks = zip(hidden.split(chunk_rows), labels.split(chunk_rows), strict=True)
        return torch.cat([losses_of(linear(rows, weight, bias), row_labels) for rows, row_labels in chunks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        dhidden = torch.empty_like(hidden)
        # float32: in bfloat16 the sum over many chunks would lose the small ones
        dweight, dbias = (torch.zeros_like(parameter, dtype=torch.float32) for parameter in (weight, bias))
        chunks = (tensor.split(ctx.chunk_rows) for tensor in (hidden, labels, grads[0], dhidden))
        for rows, row_labels, dlosses, drows in zip(*chunks, strict=True):
            dlogits = _logit_gradients(linear(rows, weight, bias), row_labels, dlosses, ctx.losses_of)
            torch.mm(dlogits, weight, out=drows)
            dweight += dlogits.T @ rows
            dbias += dlogits.sum(0, dtype=torch.float32)
            del dlogits  # otherwise alive beside the next chunk's logits
        return dhidden, dweight.to(weight.dtype), dbias.to(bias.dtype), None, None, None


def _logit_gradients(
    logits: Tensor, labels: Tensor, dlosses: Tensor, losses_of: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    with torch.enable_grad():
        logits = logits.requires_grad_()
        return torch.autograd.grad(losses_of(logits, labels), logits, dlosses)[0]


def masked_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, backend: Backend = "reference"
) -> Tensor:
    """Return the cross entropies in nats, (M,) float32.

    hidden: (M, D); weight: (C, D); bias: (C,); labels: (M,) classes, -100 = none. Triton and apex take the reference.
    """
    losses_of = compiled(row_losses) if backend == "compile" else row_losses
    chunk_rows = max(1, CHUNK_BYTES // (4 * len(weight)))
    if len(hidden) <= chunk_rows:
        return losses_of(linear(hidden, weight, bias), labels)
    return _ChunkedLosses.apply(hidden, weight, bias, labels, chunk_rows, losses_of)


@torch.no_grad()
def masked_guesses(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Return (M, 2) float32 for evaluation: the cross entropies, and 1 for each row whose likeliest class is its label.

    Arguments as in `masked_cross_entropy`; the logits are held in chunks too.
    """
    chunk_rows = max(1, CHUNK_BYTES // (4 * len(weight)))
    found = []
    for rows, row_labels in zip(hidden.split(chunk_rows), labels.split(chunk_rows), strict=True):
        logits = linear(rows, weight, bias)
        found.append(torch.stack([row_losses(logits, row_labels), (logits.argmax(-1) == row_labels).float()], 1))
    return torch.cat(found)
