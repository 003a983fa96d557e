"""BEiT's block-wise masks in plain Python, written from their description and compared with ours.

python -m tests.benchmarks.published_masks [--quick]
"""

import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from model.kernels.backend import Backend
from model.kernels.block_masks import block_image_masks
from tests.benchmarks.timing import Figure, milliseconds, show

MIN_ASPECT = 0.3
MIN_BLOCK = 16
MAX_ATTEMPTS = 10
IMAGES_PER_STEP = 2048
"""Images in BEiT-3's global batch."""


def published_mask(rng: random.Random, grid_size: int, num_masked: int, min_block: int) -> np.ndarray:
    """Return the mask of one image: blocks up to num_masked, ten attempts per block, then single patches (BEiT v2)."""
    mask = np.zeros((grid_size, grid_size), dtype=int)
    count = 0
    while count < num_masked:
        new = _published_block(rng, mask, num_masked - count, min_block)
        if not new:
            break
        count += new
    if count < num_masked:
        free = np.flatnonzero(mask.ravel() == 0)
        mask.ravel()[rng.sample(list(free), num_masked - count)] = 1
    return mask


def _published_block(rng: random.Random, mask: np.ndarray, cap: int, min_block: int) -> int:
    """Mask a block of at most `cap` new patches; return their number, 0 if ten attempts fail."""
    grid_size = len(mask)
    for _ in range(MAX_ATTEMPTS):
        area = rng.uniform(min_block, cap)
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), math.log(1 / MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= grid_size or width >= grid_size:
            continue
        top, left = rng.randint(0, grid_size - height), rng.randint(0, grid_size - width)
        new = height * width - int(mask[top : top + height, left : left + width].sum())
        if 0 < new <= cap:
            for row in range(top, top + height):
                for column in range(left, left + width):
                    mask[row, column] = 1
            return new
    return 0


def mask_figures(quick: bool) -> Iterator[Figure]:
    """Yield median microseconds per image on the CPU of ours and the published algorithm, taking turns, and the median
    ratio of speeds. On a GPU also the milliseconds of our kernel for the images of a step of BEiT-3."""
    rounds = 5 if quick else 21
    for grid_size, num_masked in ((14, 75), (16, 102)):
        if torch.cuda.is_available():
            yield f"masks_{grid_size}x{grid_size}_{IMAGES_PER_STEP}_gpu_ms", _gpu_ms(grid_size, num_masked)
        for num_images in (256,) if quick else (64, 256, 1024):
            ours, published = [], []
            for turn in range(rounds):
                ours.append(_ours_us(turn, num_images, grid_size, num_masked))
                published.append(_published_us(turn, min(num_images, 256), grid_size, num_masked))
            ratios = [other / own for own, other in zip(ours, published, strict=True)]
            name = f"masks_{grid_size}x{grid_size}_batch{num_images}"
            yield f"{name}_us", statistics.median(ours)
            yield f"{name}_published_us", statistics.median(published)
            yield f"{name}_speed_vs_published", statistics.median(ratios)


def _ours_us(seed: int, num_images: int, grid_size: int, num_masked: int, backend: Backend = "reference") -> float:
    sample_ids = torch.arange(num_images)
    return _seconds(lambda: block_image_masks(seed, sample_ids, grid_size, num_masked, MIN_BLOCK, backend)) / (
        num_images * 1e-6
    )


def _published_us(seed: int, num_images: int, grid_size: int, num_masked: int) -> float:
    rng = random.Random(seed)
    return _seconds(lambda: [published_mask(rng, grid_size, num_masked, MIN_BLOCK) for _ in range(num_images)]) / (
        num_images * 1e-6
    )


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _gpu_ms(grid_size: int, num_masked: int) -> float:
    sample_ids = torch.arange(IMAGES_PER_STEP, device="cuda")

    def draw(_: object) -> None:
        block_image_masks(0, sample_ids, grid_size, num_masked, MIN_BLOCK, "triton")

    return milliseconds(draw, sample_ids.device)


if __name__ == "__main__":
    torch.set_num_threads(1)
    show(mask_figures("--quick" in sys.argv))
