"""Block-wise masks: exact counts, BEiT's frequencies, the same bits in every version and with every backend.

CPU, seconds."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from model.kernels import language
from model.kernels.block_masks import ImageMasks, block_image_masks, block_image_masks_reference, whole_images
from model.stochastic_depth import drop_path_scales
from tests.benchmarks.published_masks import published_mask
from tests.support.faults import few_now
from tests.support.kernels import DEVICE, digest, poisoned_memory

GRID, NUM_MASKED, MIN_BLOCK = 14, 75, 16
NUM_DRAWS = 4000
LARGE_IDS = torch.tensor([2**31, 2**32 - 1, 2**32, 2**40 + 1, 2**62 + 12345])
SAMPLE_IDS = torch.cat([torch.arange(500), LARGE_IDS])


def cpu_masks(seed: int, sample_ids: Tensor, grid_size: int, num_masked: int, min_block: int) -> ImageMasks:
    return block_image_masks(seed, sample_ids, grid_size, num_masked, min_block, "reference")


def assert_kernel_equals_reference(
    seed: int, sample_ids: Tensor, grid_size: int, num_masked: int, min_block: int
) -> None:
    expected = block_image_masks_reference(seed, sample_ids, grid_size, num_masked, min_block)
    on_cpu = cpu_masks(seed, sample_ids, grid_size, num_masked, min_block)
    assert torch.equal(on_cpu.mask, expected.mask) and torch.equal(on_cpu.positions, expected.positions)
    with poisoned_memory():
        found = block_image_masks(seed, sample_ids.to(DEVICE), grid_size, num_masked, min_block, "triton")
    assert torch.equal(found.mask.cpu(), expected.mask)
    assert torch.equal(found.positions.cpu(), expected.positions)


# written at commit 42f6e21 on a CPU; masks are part of a run's definition: never regenerate
@pytest.mark.parametrize(
    ("seed", "grid_size", "num_masked", "min_block", "expected"),
    [
        (0, 14, 75, 16, "0cc64366d35cc22b"),
        (0, 14, 1, 16, "33942f866535ba24"),
        (0, 14, 75, 100, "8c8c164ffa746ae8"),
        (7, 16, 102, 16, "52598adc4c65d8cc"),
        (7, 14, 150, 1, "cd574e260579e47a"),
        (2**31 + 5, 37, 548, 16, "903f1ea56ee464c6"),
        (2**40 + 3, 14, 75, 16, "b67618716b71aeb7"),
        (2**63 + 11, 8, 64, 4, "8cf829f6634aca1c"),
        (-5, 6, 14, 3, "49353ecd78de12e3"),
    ],
)
def test_masks_never_change(seed: int, grid_size: int, num_masked: int, min_block: int, expected: str) -> None:
    assert digest(cpu_masks(seed, SAMPLE_IDS, grid_size, num_masked, min_block).mask) == expected


@pytest.mark.parametrize(
    ("seed", "grid_size", "num_masked"),
    few_now([(-1, 14, 75), (2**40 + 3, 16, 102)], [(seed, 14, 75) for seed in (0, 1, 2**31 + 5, 2**40 + 3)]),
)
def test_kernel_equals_reference_over_a_thousand_draws(seed: int, grid_size: int, num_masked: int) -> None:
    first = seed % 1000 * 2**30
    assert_kernel_equals_reference(seed, torch.arange(first, first + 1000), grid_size, num_masked, MIN_BLOCK)


@pytest.mark.parametrize(
    ("grid_size", "num_masked", "min_block"),
    [
        (37, 548, 16),
        (14, 75, 1),
        (14, 75, 75),
        (14, 75, 100),
        (14, 1, 16),
        (6, 14, 3),
        (4, 0, 4),
        (4, 16, 4),
    ],
)
def test_kernel_equals_reference_for_other_grids_counts_and_blocks(
    grid_size: int, num_masked: int, min_block: int
) -> None:
    assert_kernel_equals_reference(3, SAMPLE_IDS[-40:], grid_size, num_masked, min_block)


def test_kernel_equals_reference_with_one_image_per_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "INTERPRETED_ELEMENTS", 1)
    assert_kernel_equals_reference(5, LARGE_IDS, GRID, NUM_MASKED, MIN_BLOCK)


def test_no_image_has_no_mask() -> None:
    assert_kernel_equals_reference(0, SAMPLE_IDS[:0], GRID, NUM_MASKED, MIN_BLOCK)
    assert cpu_masks(0, SAMPLE_IDS[:0], GRID, NUM_MASKED, MIN_BLOCK).positions.shape == (0, NUM_MASKED)


@pytest.fixture(scope="module")
def frequencies() -> tuple[torch.Tensor, torch.Tensor]:
    """The frequency with which each patch is masked, ours and the published algorithm's, (GRID, GRID) each."""
    ours = cpu_masks(0, torch.arange(NUM_DRAWS), GRID, NUM_MASKED, MIN_BLOCK).mask
    assert (ours.sum(1) == NUM_MASKED).all()
    rng = random.Random(0)
    published = np.mean([published_mask(rng, GRID, NUM_MASKED, MIN_BLOCK) for _ in range(NUM_DRAWS)], axis=0)
    return ours.float().mean(0).view(GRID, GRID), torch.from_numpy(published).float()


def test_masks_fall_where_beits_fall(frequencies: tuple[torch.Tensor, torch.Tensor]) -> None:
    ours, published = frequencies
    corners = ours[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    center = ours[6:8, 6:8].mean()
    # the published algorithm: center 72 %, corner 4.6 %; 4,000 draws have a standard error of 0.7 and 0.3
    assert abs(center - 0.72) < 0.02
    assert abs(corners - 0.046) < 0.01
    # every patch: five standard errors of the difference of two means of 4,000 draws
    error = (ours * (1 - ours) / NUM_DRAWS + published * (1 - published) / NUM_DRAWS).sqrt()
    assert ((ours - published).abs() / error).max() < 5


@pytest.mark.parametrize(
    ("grid", "count", "min_block"), [(14, 75, 16), (16, 102, 16), (8, 26, 4), (4, 6, 2), (4, 16, 4), (4, 0, 4)]
)
def test_the_count_is_exact(grid: int, count: int, min_block: int) -> None:
    masks = cpu_masks(3, torch.arange(500), grid, count, min_block)
    assert masks.mask.shape == (500, grid * grid) and masks.positions.shape == (500, count)
    assert (masks.mask.sum(1) == count).all()
    assert torch.equal(torch.zeros_like(masks.mask).scatter(1, masks.positions, True), masks.mask)
    assert (masks.positions.diff(dim=1) > 0).all()


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises(ValueError, match="num_masked 17 must lie in 0..16"):
        cpu_masks(0, torch.arange(2), 4, 17, 4)


def test_a_mask_depends_on_seed_and_sample_id_alone() -> None:
    ids = torch.tensor([5, 2**40 + 1, 7])
    together = cpu_masks(1, ids, GRID, NUM_MASKED, MIN_BLOCK).mask
    alone = [cpu_masks(1, ids[i : i + 1], GRID, NUM_MASKED, MIN_BLOCK).mask for i in range(3)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, cpu_masks(2, ids, GRID, NUM_MASKED, MIN_BLOCK).mask)
    assert not torch.equal(together[0], together[1])


def test_the_share_of_whole_images_is_kept_and_an_image_keeps_its_draw_in_any_batch() -> None:
    ids = torch.arange(20_000)
    assert not whole_images(0, ids, 0.0).any() and whole_images(0, ids, 1.0).all()
    is_whole = whole_images(0, ids, 0.3)
    assert abs(float(is_whole.float().mean()) - 0.3) < 0.01
    assert torch.equal(whole_images(0, ids[37:41], 0.3), is_whole[37:41])
    assert not torch.equal(whole_images(1, ids, 0.3), is_whole)
    assert (is_whole <= whole_images(0, ids, 0.5)).all()  # a larger share keeps those of a smaller one
    # independent of the draws of stochastic depth
    dropped = drop_path_scales(0, ids, depth=2, rate=0.3)[1, 0] == 0
    assert abs(float((is_whole & dropped).float().mean()) - 0.09) < 0.01
