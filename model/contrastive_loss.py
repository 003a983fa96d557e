"""Contrastive losses of the global batch and their gradients, by rows of the matrix of logits.

    softmax   L = 1 / 2B  sum_i [ lse_j(s_ij) - s_ii ]  +  1 / 2B  sum_j [ lse_i(s_ij) - s_jj ]
    sigmoid   L = 1 / B   sum_ij softplus(-z_ij s_ij),   z_ij = 1 for i = j, else -1

with s_ij = scale <image i, text j> (+ bias). Their gradients with respect to the logits are

    softmax   dL/ds_ij = 1 / 2B [ exp(s_ij - r_i) + exp(s_ij - c_j) - 2 [i = j] ],   r_i = lse_j(s_ij),
    sigmoid   dL/ds_ij = 1 / B  [ sigmoid(s_ij) - [i = j] ],                          c_j = lse_i(s_ij)

Both are symmetric in images and texts, so the same functions give a rank's images their gradient, called with its rows
of images and all texts, and its texts theirs, called with its rows of texts and all images. The logits are computed in
chunks of rows, twice for softmax, and never kept: 16k x 16k of them would be 1 GiB, and more with what autograd keeps.
Nothing here needs autograd. Everything is float32.

A text that occurs twice in a batch makes each of its images a false negative of the other, as in CLIP and open_clip.
With `PairNumbers`, which say whose texts are equal, such logits are left out of all sums instead: s_ij = -inf for i and
j != i with the same number, so that they add nothing to either loss and have no gradient.

Source: CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343).
Shapes: B pairs in the global batch, b of them this rank's, D dim.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

CHUNK_LOGITS = 1 << 24
"""Largest number of logits that exist at once, 64 MiB of them, if a row is not longer."""


class PairNumbers(NamedTuple):
    """Numbers of pairs, equal for those whose texts are equal, which are then not compared with each other."""

    rows: Tensor
    """(b,) int64, of this rank's pairs."""
    columns: Tensor
    """(B,) int64, of the pairs of the global batch."""


class RowStatistics(NamedTuple):
    """What the softmax loss needs to know of rows of logits."""

    logsumexp: Tensor
    """(b,)"""
    positives: Tensor
    """(b,), the logit of each row's own pair."""
    are_right: Tensor
    """(b,) bool, whether every other logit of the row is smaller: among equal ones there is no right one."""


class SigmoidRows(NamedTuple):
    """The sigmoid loss of rows of logits, and its gradients. Sums: nothing is divided by B."""

    loss: Tensor
    """()"""
    gradient: Tensor
    """(b, D), with respect to the rows' features."""
    bias_gradient: Tensor
    """()"""
    are_right: Tensor
    """(b,) bool, as in RowStatistics."""


@torch.no_grad()
def row_statistics(
    rows: Tensor,
    columns: Tensor,
    first: int,
    scale: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
    numbers: PairNumbers | None = None,
) -> RowStatistics:
    """Return the statistics of the logits of rows (b, D), of one kind, with all columns (B, D), of the other.

    first: the column that belongs to the first row; the others follow. scale: (), the factor of similarities. numbers:
    None compares each row with all columns.
    """
    found = []
    for _, positives, logits in _chunks(rows, columns, first, scale, chunk_logits, numbers):
        own = logits.diagonal(positives)
        found.append((logits.logsumexp(1), own.clone(), _are_right(logits, own)))
    return RowStatistics(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def softmax_gradient(
    rows: Tensor,
    columns: Tensor,
    first: int,
    scale: Tensor,
    row_logsumexp: Tensor,
    column_logsumexp: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
    numbers: PairNumbers | None = None,
) -> Tensor:
    """Return 2 B times the gradient of the softmax loss with respect to rows, (b, D); arguments as above.

    row_logsumexp: (b,); column_logsumexp: (B,), of the same logits by columns, from whichever rank has them as rows.
    """
    gradient = torch.empty_like(rows)
    for part, positives, logits in _chunks(rows, columns, first, scale, chunk_logits, numbers):
        weights = (logits - row_logsumexp[part, None]).exp_()
        weights += (logits - column_logsumexp).exp_()
        weights.diagonal(positives).sub_(2)
        torch.mm(weights, columns, out=gradient[part])
    return gradient.mul_(scale)


@torch.no_grad()
def sigmoid_rows(
    rows: Tensor,
    columns: Tensor,
    first: int,
    scale: Tensor,
    bias: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
    numbers: PairNumbers | None = None,
) -> SigmoidRows:
    """Return the sigmoid loss of rows (b, D) with all columns (B, D), and its gradients; arguments as above."""
    gradient = torch.empty_like(rows)
    loss, bias_gradient, are_right = scale.new_zeros(()), scale.new_zeros(()), []
    for part, positives, logits in _chunks(rows, columns, first, scale, chunk_logits, numbers, bias):
        own = logits.diagonal(positives)
        are_right.append(_are_right(logits, own))
        loss += softplus(logits).sum() - own.sum()  # softplus(-s) = softplus(s) - s
        weights = logits.sigmoid_()
        weights.diagonal(positives).sub_(1)
        bias_gradient += weights.sum()
        torch.mm(weights, columns, out=gradient[part])
    return SigmoidRows(loss, gradient.mul_(scale), bias_gradient, torch.cat(are_right))


def _are_right(logits: Tensor, own: Tensor) -> Tensor:
    return (logits >= own[:, None]).sum(1) == 1


def _chunks(
    rows: Tensor,
    columns: Tensor,
    first: int,
    scale: Tensor,
    chunk_logits: int,
    numbers: PairNumbers | None,
    bias: Tensor | None = None,
) -> Iterator[tuple[slice, int, Tensor]]:
    """Yield slices of rows, each with the diagonal on which the logits of its own pairs lie, and its logits."""
    num_rows = max(1, chunk_logits // len(columns))
    for start in range(0, len(rows), num_rows):
        part, positives = slice(start, start + num_rows), first + start
        logits = scale * (rows[part] @ columns.T)
        if bias is not None:
            logits += bias
        if numbers is not None:
            are_equal = numbers.rows[part, None] == numbers.columns
            are_equal.diagonal(positives).fill_(False)
            logits.masked_fill_(are_equal, -math.inf)
        yield part, positives, logits
