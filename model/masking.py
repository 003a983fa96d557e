"""What is hidden from the network, and what it drops: pure functions of the seed and of sample ids.

A sample id is the sample's place in the run: step * samples per global batch + place in the global batch. So a mask
depends on neither rank, micro-batch nor restart.

Shapes: B samples, G patches along a side, S tokens of a text, K masked positions per text (the most there can be).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.philox import Stream, below, random_words, uniform

MAX_ATTEMPTS = 10
ASPECT_LEVELS = 1024
AREA_LEVELS = 4096
MIN_ASPECT = 0.3
IGNORED = -100


def block_image_masks(seed: int, sample_ids: Tensor, grid_size: int, num_masked: int, min_block: int) -> Tensor:
    """BEiT's block-wise masks with the count completed, as in BEiT v2: exactly num_masked patches of each image.

    Blocks of min_block..num_masked patches and an aspect ratio log-uniform in [0.3, 1 / 0.3] are proposed until the
    count is reached or ten proposals in a row fit nowhere; missing patches are then drawn one by one. Area and aspect
    come in AREA_LEVELS and ASPECT_LEVELS steps, so that float32 holds them exactly and a kernel can agree to the bit.

    sample_ids: (B,) int64. Returns (B, grid_size ** 2) bool, True = masked. Raises ValueError for an impossible count.
    Source: unilm/beit2/masking_generator.py.
    """
    if not 0 <= num_masked <= grid_size**2:
        raise ValueError(f"num_masked {num_masked} must lie in 0..{grid_size**2}, the patches of an image")
    device = sample_ids.device
    sqrt_aspects, inverse_sqrt_aspects = _sqrt_aspect_tables(device)
    axis = torch.arange(grid_size, device=device)
    mask = torch.zeros(len(sample_ids), grid_size, grid_size, dtype=torch.bool, device=device)
    count = torch.zeros_like(sample_ids)
    attempts = torch.zeros_like(sample_ids)
    proposal = 0
    active = count < num_masked
    while active.any():
        words = random_words(seed, Stream.IMAGE_BLOCKS, sample_ids, proposal)
        cap = num_masked - count
        area = (min_block * AREA_LEVELS + below(words[0], AREA_LEVELS) * (cap - min_block)) / AREA_LEVELS
        side = area.to(torch.float32).sqrt()
        aspect = below(words[1], ASPECT_LEVELS)
        height = (side * sqrt_aspects[aspect] + 0.5).floor().to(torch.int64)
        width = (side * inverse_sqrt_aspects[aspect] + 0.5).floor().to(torch.int64)
        fits = (height < grid_size) & (width < grid_size)
        top = below(words[2], (grid_size - height + 1).clamp(min=1))
        left = below(words[3], (grid_size - width + 1).clamp(min=1))
        rows = (axis >= top[:, None]) & (axis < (top + height)[:, None])  # (B, G)
        columns = (axis >= left[:, None]) & (axis < (left + width)[:, None])
        block = rows[:, :, None] & columns[:, None, :]  # (B, G, G)
        new = (block & ~mask).sum((1, 2))
        accepted = active & fits & (new > 0) & (new <= cap)
        mask |= block & accepted[:, None, None]
        count += new * accepted
        attempts = torch.where(accepted, 0, attempts + 1)
        active = (count < num_masked) & (attempts < MAX_ATTEMPTS)
        proposal += 1
    mask = mask.flatten(1)
    order = _random_order(seed, Stream.IMAGE_COMPLETION, sample_ids, ~mask)
    return mask | (order < (num_masked - count)[:, None])


def _sqrt_aspect_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Square roots of aspect ratios log-uniform in [0.3, 1 / 0.3], and their inverses: (ASPECT_LEVELS,) float32."""
    middle = (torch.arange(ASPECT_LEVELS, dtype=torch.float64) + 0.5) / ASPECT_LEVELS
    sqrt_aspects = (math.log(MIN_ASPECT) * (0.5 - middle)).exp()
    return sqrt_aspects.to(device, torch.float32), (1 / sqrt_aspects).to(device, torch.float32)


def _random_order(seed: int, stream: Stream, sample_ids: Tensor, candidates: Tensor) -> Tensor:
    """Place of each candidate in a random order of its sample, from 0; whatever is no candidate comes last.

    candidates: (B, S) bool. Returns (B, S) int64.
    """
    places = torch.arange(candidates.shape[1], device=candidates.device)
    words = random_words(seed, stream, sample_ids[:, None], places)[0]
    keys = torch.where(candidates, words, 1 << 32) * candidates.shape[1] + places  # distinct, so that order is unique
    return keys.argsort(dim=1).argsort(dim=1)


@dataclass(frozen=True, eq=False)
class MaskedText:
    """Texts with some words hidden, and what they were."""

    ids: Tensor
    """(B, S) word ids after replacement."""
    positions: Tensor
    """(B, K) masked positions, in increasing order; unused places hold 0."""
    labels: Tensor
    """(B, K) the original ids at those positions; -100 in unused places."""


def mask_texts(
    seed: int, sample_ids: Tensor, ids: Tensor, padding: Tensor, ratio: float, mask_id: int, word_ids: tuple[int, int]
) -> MaskedText:
    """Hide `ratio` of each text's tokens: 80 % become <mask>, 10 % a random word, 10 % stay.

    The count is round(n * ratio) of the n tokens that are no padding, at least 1 and at most n - 1, drawn without
    replacement; the leading <s> is never chosen, the closing </s> may be (the rule of Microsoft's captioning code).

    sample_ids: (B,) int64; ids: (B, S) int64; padding: (B, S) bool, True = padding; word_ids: range [first, stop) of
    ids that a random word is drawn from.
    """
    length = (~padding).sum(1)
    count = _num_masked_tokens(length, ratio)
    places = torch.arange(ids.shape[1], device=ids.device)
    order = _random_order(seed, Stream.TEXT_POSITIONS, sample_ids, ~padding & (places > 0))
    chosen = order < count[:, None]  # (B, S)

    words = random_words(seed, Stream.TEXT_REPLACEMENT, sample_ids[:, None], places)
    fate = uniform(words[0])
    random_ids = word_ids[0] + below(words[1], word_ids[1] - word_ids[0])
    replaced = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, random_ids, ids))

    most = _num_masked_tokens(torch.tensor(ids.shape[1]), ratio)
    positions = torch.where(chosen, places, ids.shape[1]).sort(dim=1).values[:, : int(most)]  # (B, K)
    used = positions < ids.shape[1]
    positions = positions * used
    labels = torch.where(used, ids.gather(1, positions), IGNORED)
    return MaskedText(torch.where(chosen, replaced, ids), positions, labels)


def _num_masked_tokens(length: Tensor, ratio: float) -> Tensor:
    """Of `length` tokens, how many are hidden; both counts include <s> and </s>."""
    count = (length.to(torch.float64) * ratio + 0.5).floor().to(torch.int64)
    return torch.minimum(count.clamp(min=1), (length - 1).clamp(min=0))


def drop_path_scales(seed: int, sample_ids: Tensor, depth: int, rate: float) -> Tensor:
    """Stochastic depth: (depth, 2, B) float32, 0 where a sample's branch is dropped, else 1 / (1 - rate of the block).

    The rate grows linearly from 0 in the first block to `rate` in the last; index 1 is attention, experts.
    sample_ids: (B,) int64.
    """
    rates = torch.linspace(0, rate, depth, device=sample_ids.device)[:, None, None]
    branches = torch.arange(2 * depth, device=sample_ids.device).view(depth, 2, 1)
    draws = uniform(random_words(seed, Stream.DROP_PATH, sample_ids, branches)[0])
    return (draws >= rates) / (1 - rates)
