"""Stochastic depth: which branches of which samples are dropped, a pure function of the seed and of sample ids.

A sample id is the sample's place in the run: step * samples per global batch + place in the global batch. So a draw
depends on neither rank, micro-batch nor restart. Masks are drawn the same way: see `model.kernels.block_masks` and
`model.kernels.text_masks`. Source: Huang et al., "Deep Networks with Stochastic Depth" (arXiv 1603.09382).
"""

import torch
from torch import Tensor

from model.philox import Stream, random_words, uniform


def drop_path_scales(seed: int, sample_ids: Tensor, depth: int, rate: float) -> Tensor:
    """Return the factors of all branches, (depth, 2, B) float32: 0 if a sample's branch is dropped, else
    1 / (1 - rate of the block), which keeps the mean.

    The rate grows linearly from 0 in the first block to `rate` in the last; the second dimension is attention, experts.
    sample_ids: (B,) int64.
    """
    rates = torch.linspace(0, rate, depth, device=sample_ids.device)[:, None, None]
    branches = torch.arange(2 * depth, device=sample_ids.device).view(depth, 2, 1)
    draws = uniform(random_words(seed, Stream.DROP_PATH, sample_ids, branches)[0])
    return (draws >= rates) / (1 - rates)
