"""Masked words: a share of each text's tokens is masked; 80 % become <mask>, 10 % a random word, 10 % stay.

`model.objective.num_masked` has the count. The positions are drawn without replacement; the leading <s> is never
chosen, the closing </s> may be (the rule of Microsoft's captioning code).

Bytes, for B texts of S tokens: 17 B S, ids and padding read and ids written, and 16 B K. A program of the kernel masks
one text; eager takes a hundred passes over (B, S), and sorts.

Shapes: B texts, S tokens of a text, K masked positions per text (the largest number of any text).
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.kernels.backend import Backend
from model.kernels.language import block_size, jit, samples_per_program, tl
from model.kernels.random_choice import MAX_POSITIONS, random_choice, random_choice_reference
from model.objective import IGNORE_INDEX, num_masked
from model.philox import WORD64, Stream, below, random_words

MASKED_BELOW = 13421773
"""Threshold for the 24 high bits of a random word: 80 %, as float32 rounds it."""
RANDOM_BELOW = 15099494
"""Threshold likewise: 90 %."""


@dataclass(frozen=True, eq=False)
class MaskedText:
    """Texts with masked words, and the words."""

    ids: Tensor
    """(B, S) word ids after replacement."""
    positions: Tensor
    """(B, K) masked positions in increasing order, 0 if unused. The used ones come first."""
    labels: Tensor
    """(B, K) original ids at those positions, -100 if unused."""


def mask_texts_reference(
    seed: int, sample_ids: Tensor, ids: Tensor, padding: Tensor, ratio: float, mask_id: int, word_ids: tuple[int, int]
) -> MaskedText:
    """Return the masked texts: the definition."""
    counts = _num_masked_by_length(ids.shape[1], ratio, ids.device)
    count = counts[(~padding).sum(1)]
    places = torch.arange(ids.shape[1], device=ids.device)
    candidates = ~padding & (places > 0)
    chosen = random_choice_reference(seed, Stream.TEXT_POSITIONS, sample_ids, candidates, count)  # (B, S)

    words = random_words(seed, Stream.TEXT_REPLACEMENT, sample_ids[:, None], places)
    draw = words[0] >> 8
    random_ids = word_ids[0] + below(words[1], word_ids[1] - word_ids[0])
    replaced = torch.where(draw < MASKED_BELOW, mask_id, torch.where(draw < RANDOM_BELOW, random_ids, ids))

    (max_masked,) = num_masked([ids.shape[1]], ratio)
    positions = torch.where(chosen, places, ids.shape[1]).sort(dim=1).values[:, :max_masked]  # (B, K)
    used = positions < ids.shape[1]
    positions = positions * used
    labels = torch.where(used, ids.gather(1, positions), IGNORE_INDEX)
    return MaskedText(torch.where(chosen, replaced, ids), positions, labels)


@lru_cache
def _num_masked_by_length(max_length: int, ratio: float, device: torch.device) -> Tensor:
    """Return the number of masked tokens of texts of 0 .. max_length tokens, (max_length + 1,) int64."""
    return torch.tensor(num_masked(range(max_length + 1), ratio), dtype=torch.int64, device=device)


_MASKED_BELOW = tl.constexpr(MASKED_BELOW)
_RANDOM_BELOW = tl.constexpr(RANDOM_BELOW)
_IGNORE_INDEX = tl.constexpr(IGNORE_INDEX)
_TEXT_POSITIONS = tl.constexpr(int(Stream.TEXT_POSITIONS))
_TEXT_REPLACEMENT = tl.constexpr(int(Stream.TEXT_REPLACEMENT))


@jit(do_not_specialize=["seed", "num_texts", "length", "max_masked", "mask_id", "first_word", "num_words"])
def _text_masks_kernel(
    sample_ids_ptr, ids_ptr, padding_ptr, counts_ptr, masked_ids_ptr, positions_ptr, labels_ptr,
    seed, num_texts, length, max_masked, mask_id, first_word, num_words,
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
    draw = (word0 >> 8).to(tl.int32)
    random_ids = first_word + tl.umulhi(word1, tl.cast(num_words, tl.uint32)).to(tl.int64)
    replaced = tl.where(draw < _MASKED_BELOW, mask_id, tl.where(draw < _RANDOM_BELOW, random_ids, ids))
    tl.store(masked_ids_ptr + offsets, tl.where(chosen, replaced, ids), mask=inside)

    slots = texts[:, None] * max_masked + tl.cumsum(chosen.to(tl.int32), 1) - 1
    tl.store(positions_ptr + slots, places, mask=chosen)
    tl.store(labels_ptr + slots, ids, mask=chosen)
    # shorter texts have fewer masked words: fill the rest of their row
    unused = exists[:, None] & (places >= count[:, None]) & (places < max_masked)
    tl.store(positions_ptr + texts[:, None] * max_masked + places, 0, mask=unused)
    tl.store(labels_ptr + texts[:, None] * max_masked + places, _IGNORE_INDEX, mask=unused)


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
    """Return the texts with `ratio` of each one's tokens masked.

    sample_ids: (B,) int64; ids: (B, S) int64; padding: (B, S) bool, True = padding; word_ids: range [first, stop) from
    which a random word is drawn. Raises ValueError if texts are too long for the kernel.
    """
    if backend != "triton":
        return mask_texts_reference(seed, sample_ids, ids, padding, ratio, mask_id, word_ids)
    num_texts, length = ids.shape
    if length > MAX_POSITIONS:
        raise ValueError(
            f"a text of {length} tokens exceeds the {MAX_POSITIONS} of kernels triton; set kernels to reference"
        )
    (max_masked,) = num_masked([length], ratio)
    masked_ids = torch.empty(num_texts, length, dtype=torch.int64, device=ids.device)
    positions = torch.empty(num_texts, max_masked, dtype=torch.int64, device=ids.device)
    labels = torch.empty_like(positions)
    if num_texts:
        block = block_size(length)
        texts = samples_per_program(num_texts, block)
        _text_masks_kernel[(-(-num_texts // texts),)](
            sample_ids.contiguous(), ids.contiguous(), padding.contiguous(),
            _num_masked_by_length(length, ratio, ids.device), masked_ids, positions, labels,
            seed & WORD64, num_texts, length, max_masked, mask_id, word_ids[0], word_ids[1] - word_ids[0],
            LENGTH=block, TEXTS=texts, num_warps=max(1, min(8, block // 128)),
        )  # fmt: skip
    return MaskedText(masked_ids, positions, labels)
