"""Masked words: of each text a part of the tokens is hidden; 80 % become <mask>, 10 % a random word, 10 % stay.

The count is round(n * ratio) of the n tokens that are no padding, at least 1 and at most n - 1, drawn without
replacement; the leading <s> is never chosen, the closing </s> may be (the rule of Microsoft's captioning code).

Bytes, for B texts of S tokens: 17 B S, ids and padding read and ids written, and 16 B K. A program of the kernel masks
one text; eager takes a hundred passes over (B, S), and sorts.

Shapes: B texts, S tokens of a text, K masked positions per text (the most there can be).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.kernels.backend import Backend
from model.kernels.language import block_size, jit, samples_per_program, tl
from model.kernels.random_choice import MAX_PLACES, random_choice, random_choice_reference
from model.philox import WORD64, Stream, below, random_words
from model.stochastic_depth import IGNORED

MASKED_BELOW = 13421773
"""Of the 24 high bits of a random word: 80 %, as float32 rounds it."""
RANDOM_BELOW = 15099494
"""90 %."""


@dataclass(frozen=True, eq=False)
class MaskedText:
    """Texts with some words hidden, and what they were."""

    ids: Tensor
    """(B, S) word ids after replacement."""
    positions: Tensor
    """(B, K) masked positions, in increasing order; unused places hold 0."""
    labels: Tensor
    """(B, K) the original ids at those positions; -100 in unused places, which stand behind the others."""


def mask_texts_reference(
    seed: int, sample_ids: Tensor, ids: Tensor, padding: Tensor, ratio: float, mask_id: int, word_ids: tuple[int, int]
) -> MaskedText:
    """The definition."""
    counts = _num_masked_by_length(ids.shape[1], ratio, ids.device)
    count = counts[(~padding).sum(1)]
    places = torch.arange(ids.shape[1], device=ids.device)
    candidates = ~padding & (places > 0)
    chosen = random_choice_reference(seed, Stream.TEXT_POSITIONS, sample_ids, candidates, count)  # (B, S)

    words = random_words(seed, Stream.TEXT_REPLACEMENT, sample_ids[:, None], places)
    fate = words[0] >> 8
    random_ids = word_ids[0] + below(words[1], word_ids[1] - word_ids[0])
    replaced = torch.where(fate < MASKED_BELOW, mask_id, torch.where(fate < RANDOM_BELOW, random_ids, ids))

    (most,) = num_masked([ids.shape[1]], ratio)
    positions = torch.where(chosen, places, ids.shape[1]).sort(dim=1).values[:, :most]  # (B, K)
    used = positions < ids.shape[1]
    positions = positions * used
    labels = torch.where(used, ids.gather(1, positions), IGNORED)
    return MaskedText(torch.where(chosen, replaced, ids), positions, labels)


def num_masked(lengths: Sequence[int], ratio: float) -> tuple[int, ...]:
    """Of texts of so many tokens, padding not among them, how many are hidden."""
    by_length = _num_masked_by_length(max(lengths, default=0), ratio, torch.device("cpu")).tolist()
    return tuple(by_length[length] for length in lengths)


@lru_cache
def _num_masked_by_length(most: int, ratio: float, device: torch.device) -> Tensor:
    """Of 0 .. most tokens, how many are hidden: (most + 1,) int64; both counts include <s> and </s>."""
    length = torch.arange(most + 1)
    count = (length.to(torch.float64) * ratio + 0.5).floor().to(torch.int64)
    return torch.minimum(count.clamp(min=1), (length - 1).clamp(min=0)).to(device)


_MASKED_BELOW = tl.constexpr(MASKED_BELOW)
_RANDOM_BELOW = tl.constexpr(RANDOM_BELOW)
_IGNORED = tl.constexpr(IGNORED)
_TEXT_POSITIONS = tl.constexpr(int(Stream.TEXT_POSITIONS))
_TEXT_REPLACEMENT = tl.constexpr(int(Stream.TEXT_REPLACEMENT))


@jit(do_not_specialize=["seed", "num_texts", "length", "most", "mask_id", "first_word", "num_words"])
def _text_masks_kernel(
    sample_ids_ptr, ids_ptr, padding_ptr, counts_ptr, masked_ids_ptr, positions_ptr, labels_ptr,
    seed, num_texts, length, most, mask_id, first_word, num_words,
    LENGTH: tl.constexpr, TEXTS: tl.constexpr,
):  # fmt: skip
    texts = tl.program_id(0) * TEXTS + tl.arange(0, TEXTS).to(tl.int64)
    exists = texts < num_texts
    sample_ids = tl.load(sample_ids_ptr + texts, mask=exists, other=0)
    low, high = sample_ids.to(tl.uint32)[:, None], (sample_ids >> 32).to(tl.uint32)[:, None]
    places = tl.arange(0, LENGTH)[None, :]
    inside = exists[:, None] & (places < length)
    offsets = texts[:, None] * length + places
    ids = tl.load(ids_ptr + offsets, mask=inside, other=0)
    is_token = tl.load(padding_ptr + offsets, mask=inside, other=1) == 0
    count = tl.load(counts_ptr + tl.sum(is_token.to(tl.int32), 1), mask=exists, other=0).to(tl.int32)
    order, _, _, _ = tl.philox(seed, places, _TEXT_POSITIONS, low, high)
    chosen = random_choice(order, places, is_token & (places > 0), count)

    word0, word1, _, _ = tl.philox(seed, places, _TEXT_REPLACEMENT, low, high)
    fate = (word0 >> 8).to(tl.int32)
    random_ids = first_word + tl.umulhi(word1, tl.cast(num_words, tl.uint32)).to(tl.int64)
    replaced = tl.where(fate < _MASKED_BELOW, mask_id, tl.where(fate < _RANDOM_BELOW, random_ids, ids))
    tl.store(masked_ids_ptr + offsets, tl.where(chosen, replaced, ids), mask=inside)

    slots = texts[:, None] * most + tl.cumsum(chosen.to(tl.int32), 1) - 1
    tl.store(positions_ptr + slots, places, mask=chosen)
    tl.store(labels_ptr + slots, ids, mask=chosen)
    unused = exists[:, None] & (places >= count[:, None]) & (places < most)
    tl.store(positions_ptr + texts[:, None] * most + places, 0, mask=unused)
    tl.store(labels_ptr + texts[:, None] * most + places, _IGNORED, mask=unused)


def mask_texts(
    seed: int,
    sample_ids: Tensor,
    ids: Tensor,
    padding: Tensor,
    ratio: float,
    mask_id: int,
    word_ids: tuple[int, int],
    backend: Backend,
) -> MaskedText:
    """Hide `ratio` of each text's tokens.

    sample_ids: (B,) int64; ids: (B, S) int64; padding: (B, S) bool, True = padding; word_ids: range [first, stop) of
    ids that a random word is drawn from. Raises ValueError where texts are longer than the kernel can hold.
    """
    if backend != "triton":
        return mask_texts_reference(seed, sample_ids, ids, padding, ratio, mask_id, word_ids)
    num_texts, length = ids.shape
    if length > MAX_PLACES:
        raise ValueError(f"kernels triton mask texts of up to {MAX_PLACES} tokens; set kernels to reference")
    (most,) = num_masked([length], ratio)
    masked_ids = torch.empty(num_texts, length, dtype=torch.int64, device=ids.device)
    positions = torch.empty(num_texts, most, dtype=torch.int64, device=ids.device)
    labels = torch.empty_like(positions)
    if num_texts:
        block = block_size(length)
        texts = samples_per_program(num_texts, block)
        _text_masks_kernel[(-(-num_texts // texts),)](
            sample_ids.contiguous(), ids.contiguous(), padding.contiguous(),
            _num_masked_by_length(length, ratio, ids.device), masked_ids, positions, labels,
            seed & WORD64, num_texts, length, most, mask_id, word_ids[0], word_ids[1] - word_ids[0],
            LENGTH=block, TEXTS=texts, num_warps=max(1, min(8, block // 128)),
        )  # fmt: skip
    return MaskedText(masked_ids, positions, labels)
