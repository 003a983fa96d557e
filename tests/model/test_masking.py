"""Masks: exact counts, BEiT's frequencies, and nothing but seed and sample id behind them. CPU, seconds."""

import math
import random

import numpy as np
import pytest
import torch

from model.masking import IGNORED, block_image_masks, drop_path_scales, mask_texts

GRID, NUM_MASKED, MIN_BLOCK = 14, 75, 16
NUM_DRAWS = 4000
MASK_ID, WORD_IDS = 99, (4, 99)


def published_block_mask(rng: random.Random) -> np.ndarray:
    """BEiT's algorithm written down anew from its description: blocks until the count, ten attempts a block, then
    single patches (BEiT v2)."""
    mask, count = np.zeros((GRID, GRID), dtype=int), 0
    while count < NUM_MASKED:
        cap, added = NUM_MASKED - count, 0
        for _ in range(10):
            area = rng.uniform(MIN_BLOCK, cap)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= GRID or width >= GRID:
                continue
            top, left = rng.randint(0, GRID - height), rng.randint(0, GRID - width)
            box = mask[top : top + height, left : left + width]
            new = height * width - box.sum()
            if 0 < new <= cap:
                box[:] = 1
                added = new
                break
        if not added:
            break
        count += added
    free = np.flatnonzero(mask.ravel() == 0)
    mask.ravel()[rng.sample(list(free), NUM_MASKED - count)] = 1
    return mask


@pytest.fixture(scope="module")
def frequencies() -> tuple[torch.Tensor, torch.Tensor]:
    """How often each patch is masked: ours and the published algorithm's, (GRID, GRID) each."""
    ours = block_image_masks(0, torch.arange(NUM_DRAWS), GRID, NUM_MASKED, MIN_BLOCK)
    assert (ours.sum(1) == NUM_MASKED).all()
    rng = random.Random(0)
    published = np.mean([published_block_mask(rng) for _ in range(NUM_DRAWS)], axis=0)
    return ours.float().mean(0).view(GRID, GRID), torch.from_numpy(published).float()


def test_masks_fall_where_beits_fall(frequencies: tuple[torch.Tensor, torch.Tensor]) -> None:
    ours, published = frequencies
    corners = ours[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    center = ours[6:8, 6:8].mean()
    # FORMATS of the published algorithm: center 72 %, corner 4.6 %; 4,000 draws have a standard error of 0.7 and 0.3
    assert abs(center - 0.72) < 0.02
    assert abs(corners - 0.046) < 0.01
    # every patch: five standard errors of the difference of two means of 4,000 draws
    error = (ours * (1 - ours) / NUM_DRAWS + published * (1 - published) / NUM_DRAWS).sqrt()
    assert ((ours - published).abs() / error).max() < 5


@pytest.mark.parametrize(
    ("grid", "count", "min_block"), [(14, 75, 16), (16, 102, 16), (8, 26, 4), (4, 6, 2), (4, 16, 4), (4, 0, 4)]
)
def test_the_count_is_exact(grid: int, count: int, min_block: int) -> None:
    masks = block_image_masks(3, torch.arange(500), grid, count, min_block)
    assert masks.shape == (500, grid * grid)
    assert (masks.sum(1) == count).all()


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises(ValueError, match="num_masked 17 must lie in 0..16"):
        block_image_masks(0, torch.arange(2), 4, 17, 4)


def test_a_mask_depends_on_seed_and_sample_id_alone() -> None:
    ids = torch.tensor([5, 2**40 + 1, 7])
    together = block_image_masks(1, ids, GRID, NUM_MASKED, MIN_BLOCK)
    alone = torch.cat([block_image_masks(1, ids[i : i + 1], GRID, NUM_MASKED, MIN_BLOCK) for i in range(3)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, block_image_masks(2, ids, GRID, NUM_MASKED, MIN_BLOCK))
    assert not torch.equal(together[0], together[1])


def texts(count: int, length: int, real: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(4, 99, (count, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    padding = (torch.arange(length) >= real).expand(count, -1)
    return torch.where(padding, 1, ids), padding


@pytest.mark.parametrize(
    ("real", "ratio", "expected"), [(20, 0.5, 10), (20, 0.15, 3), (7, 0.5, 4), (3, 0.15, 1), (2, 0.9, 1)]
)
def test_texts_hide_the_asked_for_share_of_real_tokens(real: int, ratio: float, expected: int) -> None:
    ids, padding = texts(200, 24, real)
    masked = mask_texts(0, torch.arange(200), ids, padding, ratio, MASK_ID, WORD_IDS)
    asked = masked.labels != IGNORED
    assert (asked.sum(1) == expected).all()
    assert (masked.positions[asked] > 0).all() and (masked.positions[asked] < real).all()
    assert torch.equal(masked.labels[asked], ids.gather(1, masked.positions)[asked])
    changed = masked.ids != ids
    at_asked = torch.zeros_like(padding).scatter(1, masked.positions, asked)
    assert not (changed & ~at_asked & (torch.arange(24) > 0)).any()


def test_replacement_is_80_10_10_and_every_place_is_equally_likely() -> None:
    ids, padding = texts(20_000, 11, 11)
    masked = mask_texts(0, torch.arange(20_000), ids, padding, 0.5, MASK_ID, WORD_IDS)
    replaced = masked.ids.gather(1, masked.positions)
    is_mask, is_same = (replaced == MASK_ID).float().mean(), (replaced == masked.labels).float().mean()
    assert abs(is_mask - 0.8) < 0.005
    assert abs(is_same - (0.1 + 0.1 / 95)) < 0.005
    assert replaced.min() >= 4
    places = torch.bincount(masked.positions.flatten(), minlength=11) / 20_000
    assert places[0] == 0
    assert (places[1:] - 0.6).abs().max() < 0.02  # 6 of 10


def test_stochastic_depth_keeps_its_rates_and_the_mean() -> None:
    scales = drop_path_scales(0, torch.arange(20_000), depth=5, rate=0.4)
    assert scales.shape == (5, 2, 20_000)
    expected = torch.linspace(0, 0.4, 5)[:, None].expand(5, 2)
    torch.testing.assert_close((scales == 0).float().mean(2), expected, atol=0.015, rtol=0)
    torch.testing.assert_close(scales.mean(2), torch.ones(5, 2), atol=0.03, rtol=0)
    assert (scales[0] == 1).all()
