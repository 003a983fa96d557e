"""What the network drops and leaves out: pure functions of the seed and of sample ids.

A sample id is the sample's place in the run: step * samples per global batch + place in the global batch. So what is
drawn depends on neither rank, micro-batch nor restart. Masks are drawn the same way: see `model.kernels.block_masks`
and `model.kernels.text_masks`.
"""

import torch
from torch import Tensor

from model.philox import Stream, random_words, uniform

IGNORED = -100
"""The label of a place that is not asked."""


def whole_images(seed: int, sample_ids: Tensor, share: float) -> Tensor:
    """Return which images are left whole, with no patch hidden: (B,) bool, each with the probability `share`.

    sample_ids: (B,) int64. Over a run the share of whole images is `share`; in one batch their number varies.
    """
    return uniform(random_words(seed, Stream.WHOLE_IMAGES, sample_ids, 0)[0]) < share


def drop_path_scales(seed: int, sample_ids: Tensor, depth: int, rate: float) -> Tensor:
    """Stochastic depth: (depth, 2, B) float32, 0 where a sample's branch is dropped, else 1 / (1 - rate of the block).

    The rate grows linearly from 0 in the first block to `rate` in the last; index 1 is attention, experts.
    sample_ids: (B,) int64.
    """
    rates = torch.linspace(0, rate, depth, device=sample_ids.device)[:, None, None]
    branches = torch.arange(2 * depth, device=sample_ids.device).view(depth, 2, 1)
    draws = uniform(random_words(seed, Stream.DROP_PATH, sample_ids, branches)[0])
    return (draws >= rates) / (1 - rates)
