"""Philox 4x32-10: random numbers as a pure function of a key and a counter.

torch's generators have a state, which would have to be kept alike on every rank and over every restart. Here the same
(seed, stream, sample, index) gives the same bits on any device and rank, after any restart, and in a Triton kernel,
which runs the same ten rounds. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

32-bit words are held in int64 tensors, which every backend supports. On the CPU numpy computes the rounds, in half of
torch's time for the few words of a batch.
"""

from enum import IntEnum
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Words = TypeVar("Words", Tensor, np.ndarray)

WORD = 0xFFFFFFFF
WORD64 = 0xFFFFFFFFFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)


class Stream(IntEnum):
    """Independent sequences of random numbers per sample. The values are part of a run's definition: never renumber."""

    IMAGE_BLOCKS = 0
    IMAGE_COMPLETION = 1
    TEXT_POSITIONS = 2
    TEXT_REPLACEMENT = 3
    DROP_PATH = 4
    WHOLE_IMAGES = 5
    MIXING = 6


def _multiply(constant: int, words: Words) -> tuple[Words, Words]:
    """Return the high and low word of constant * words; int64 wraps around, but keeps all 64 bits of the product."""
    product = constant * words
    return (product >> 32) & WORD, product & WORD


def philox_4x32(key: tuple[int, int], counter: tuple[Words, Words, Words, Words]) -> tuple[Words, ...]:
    """Return four tensors of random words. key: two words; counter: four broadcastable int64 tensors of words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_INCREMENTS[0]) & WORD, (k1 + KEY_INCREMENTS[1]) & WORD
    return c0, c1, c2, c3


def random_words(seed: int, stream: Stream, sample_ids: Tensor, index: Tensor | int) -> tuple[Tensor, ...]:
    """Return four words per (sample, index), each uniform in [0, 2**32).

    sample_ids: int64, any shape; index: int64, broadcastable to it. The key is the seed, the counter
    (index, stream, low and high word of the sample id).
    """
    if isinstance(index, int):
        index = torch.full((), index, dtype=torch.int64, device=sample_ids.device)
    counter = (index, torch.full_like(index, int(stream)), sample_ids & WORD, (sample_ids >> 32) & WORD)
    key = seed & WORD, (seed >> 32) & WORD
    if sample_ids.device.type == "cpu":
        c0, c1, c2, c3 = (words.numpy() for words in counter)
        with np.errstate(over="ignore"):  # overflow is intended; numpy reports it for scalars
            words = philox_4x32(key, (c0, c1, c2, c3))
        return tuple(map(torch.from_numpy, np.broadcast_arrays(*words)))
    return torch.broadcast_tensors(*philox_4x32(key, counter))


def uniform(words: Tensor) -> Tensor:
    """Return float32 in [0, 1) from the 24 high bits of words, exactly."""
    return (words >> 8).to(torch.float32) * 2.0**-24


def below(words: Tensor, bound: Tensor | int) -> Tensor:
    """Return integers in [0, bound) from words, int64; bound < 2**31."""
    return (words * bound) >> 32
