"""The first few candidates in a random order of each sample: a draw without replacement.

The order is that of (random word, place): distinct keys, so that it is unique, and so that a kernel need not sort: it
finds the greatest key that is chosen, bit by bit.

Shapes: B samples, S places.
"""

import numpy as np
import torch
from torch import Tensor

from model.kernels.language import jit, tl
from model.philox import Stream, random_words

PLACE_BITS = 12
"""Of a key in a kernel: room for 4,096 places."""
MAX_PLACES = 1 << PLACE_BITS
_PLACE_BITS = tl.constexpr(PLACE_BITS)


def random_choice_reference(seed: int, stream: Stream, sample_ids: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """The definition. candidates: (B, S) bool; count: (B,), at most the candidates. Returns (B, S), True = chosen."""
    places = torch.arange(candidates.shape[1], device=candidates.device)
    words = random_words(seed, stream, sample_ids[:, None], places)[0]
    keys = torch.where(candidates, words, 1 << 32) * candidates.shape[1] + places  # what is no candidate comes last
    is_on_cpu = keys.device.type == "cpu"  # where numpy sorts ten times as fast as torch
    ranked = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if is_on_cpu else keys.sort(dim=1).values
    last = ranked.gather(1, (count[:, None] - 1).clamp(min=0))
    return (keys <= last) & (count > 0)[:, None]


@jit
def random_choice(words, places, candidates, count):
    """words: (B, S) uint32; places: (1, S); candidates: (B, S); count: (B,). Returns (B, S), True = chosen."""
    keys = (words.to(tl.int64) << _PLACE_BITS) | places
    last = count.to(tl.int64) * 0
    for step in range(32 + _PLACE_BITS):
        higher = last + (tl.full([1], 1, tl.int64) << (31 + _PLACE_BITS - step))
        num_below = tl.sum((candidates & (keys < higher[:, None])).to(tl.int32), 1)
        last = tl.where(num_below < count, higher, last)
    return candidates & (keys <= last[:, None]) & (count > 0)[:, None]
