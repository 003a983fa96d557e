"""A draw without replacement per sample: the first few candidates in a random order.

The order is that of the keys (random word, position). Keys are distinct, so the order is unique, and a kernel need not
sort: it finds the largest chosen key bit by bit.

Shapes: B samples, S positions.
"""

import numpy as np
import torch
from torch import Tensor

from model.kernels.language import jit, tl
from model.philox import Stream, random_words

POSITION_BITS = 12
"""Low bits of a key in a kernel, which hold the position: 4,096 of them."""
MAX_POSITIONS = 1 << POSITION_BITS
_POSITION_BITS = tl.constexpr(POSITION_BITS)


def random_choice_reference(seed: int, stream: Stream, sample_ids: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """Return (B, S), True = chosen: the definition. candidates: (B, S) bool; count: (B,), at most the number of
    them."""
    positions = torch.arange(candidates.shape[1], device=candidates.device)
    words = random_words(seed, stream, sample_ids[:, None], positions)[0]
    keys = torch.where(candidates, words, 1 << 32) * candidates.shape[1] + positions  # others than candidates come last
    is_on_cpu = keys.device.type == "cpu"  # where numpy sorts ten times as fast as torch
    ranked = torch.from_numpy(np.sort(keys.numpy(), axis=1)) if is_on_cpu else keys.sort(dim=1).values
    last = ranked.gather(1, (count[:, None] - 1).clamp(min=0))
    return (keys <= last) & (count > 0)[:, None]


@jit
def random_choice(words, positions, candidates, count):
    """Return (B, S), True = chosen. words: (B, S) uint32; positions: (1, S); candidates: (B, S); count: (B,)."""
    keys = (words.to(tl.int64) << _POSITION_BITS) | positions
    # binary search for the key of rank `count`: a bit stays set if fewer than `count` candidates lie below it
    last = count.to(tl.int64) * 0
    for step in range(32 + _POSITION_BITS):
        higher = last + (tl.full([1], 1, tl.int64) << (31 + _POSITION_BITS - step))
        num_below = tl.sum((candidates & (keys < higher[:, None])).to(tl.int32), 1)
        last = tl.where(num_below < count, higher, last)
    return candidates & (keys <= last[:, None]) & (count > 0)[:, None]
