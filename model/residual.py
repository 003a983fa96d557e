"""The residual stream, and the branch that joins it.

    x + scale * (output + bias[e])

Shapes: N packed rows, D dim, E experts.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.expert_rows import ExpertRows


class Branch(NamedTuple):
    """The output of attention or of the experts that is not yet added to the residual stream.

    The bias is not part of the matrix product but of the addition, which reads every element anyway. A tuple, because
    ZeRO-3's hooks look for tensors in tuples only.
    """

    output: Tensor
    """(N, D), without bias."""
    bias: Tensor
    """(E, D), of each expert."""
    rows: ExpertRows
    """The rows of each expert of `bias`."""
    scale: Tensor | None = None
    """(N,) float32 factors of stochastic depth, None = 1."""


def add_branch(x: Tensor, branch: Branch) -> Tensor:
    """Return x + scale * (output + bias), (N, D) in the dtype of x."""
    parts = [part + branch.bias[expert] for expert, part in enumerate(branch.rows.split(branch.output))]
    total = parts[0] if len(parts) == 1 else torch.cat(parts)
    if branch.scale is not None:
        total = branch.scale[:, None] * total
    return (x + total).to(x.dtype)
