"""BEiT's block-wise image masks with the count completed, as in BEiT v2: exactly num_masked patches of each image.

Blocks of min_block..num_masked patches and an aspect ratio log-uniform in [0.3, 1 / 0.3] are proposed until the count
is reached or ten proposals in a row do not fit; missing patches are then drawn one by one. The exact count makes the
masked positions of all images one rectangle, as the head needs it.

Area and aspect take AREA_LEVELS and ASPECT_LEVELS values, which float32 holds exactly; sides are float32, and each
product is rounded before 0.5 is added. So every backend agrees with the definition to the bit.

Source: unilm/beit2/masking_generator.py. A mask is 8 bytes read and G ** 2 + 8 M written; the time goes into the chain
of proposals, 11 on average. So a program of the kernel makes the mask of one image, and all images run at once.

Shapes: B images, G patches along a side, M masked patches.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from model.kernels.backend import Backend
from model.kernels.language import block_size, jit, samples_per_program, tl
from model.kernels.random_choice import MAX_POSITIONS, random_choice, random_choice_reference
from model.philox import WORD64, Stream, below, random_words, uniform

MAX_ATTEMPTS = 10
ASPECT_LEVELS = 1024
AREA_LEVELS = 4096
MIN_ASPECT = 0.3
DRAWN_AT_ONCE = 32
"""Number of proposals per image whose random words are drawn together on the CPU; most images need no more."""


@dataclass(frozen=True, eq=False)
class ImageMasks:
    """The masked patches of each image."""

    mask: Tensor
    """(B, G ** 2) bool, True = masked."""
    positions: Tensor
    """(B, M) int64, indices of the masked patches in increasing order."""


def block_image_masks_reference(
    seed: int, sample_ids: Tensor, grid_size: int, num_masked: int, min_block: int
) -> ImageMasks:
    """Return the masks: the definition, on any device."""
    device = sample_ids.device
    sqrt_aspects, inverse_sqrt_aspects = _sqrt_aspects(device)
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
    mask |= random_choice_reference(seed, Stream.IMAGE_COMPLETION, sample_ids, ~mask, num_masked - count)
    # the count is exact, so the masked positions of all images are one rectangle: True sorts first, stably
    positions = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :num_masked]
    return ImageMasks(mask, positions)


def block_image_masks_on_cpu(
    seed: int, sample_ids: Tensor, grid_size: int, num_masked: int, min_block: int
) -> ImageMasks:
    """Return the same masks several times as fast, on a CPU.

    A row of patches is an integer with a bit per column, and the random words of many proposals are drawn together.
    """
    full_row = (1 << grid_size) - 1
    free = np.full((grid_size, len(sample_ids)), full_row, np.min_scalar_type(full_row))
    missing = np.full(len(sample_ids), num_masked)
    proposal = np.zeros_like(missing)  # number of the next one per image
    words = _proposal_words(seed, sample_ids, 0)
    active = np.flatnonzero(missing)
    while len(active):
        if proposal.max() + MAX_ATTEMPTS > words.shape[1]:
            words = np.concatenate([words, _proposal_words(seed, sample_ids, words.shape[1])], 1)
        attempts = words[:, proposal[active] + np.arange(MAX_ATTEMPTS)[:, None], active]
        new, num_new, num_attempts = _next_blocks(attempts, free[:, active], missing[active], min_block)
        free[:, active] ^= new
        missing[active] -= num_new
        proposal[active] += num_attempts
        active = active[(num_new > 0) & (missing[active] > 0)]
    columns = np.arange(grid_size, dtype=free.dtype)
    mask = torch.from_numpy(free.T[:, :, None] >> columns & 1 == 0).flatten(1)
    incomplete = torch.from_numpy(np.flatnonzero(missing))
    mask[incomplete] |= random_choice_reference(
        seed, Stream.IMAGE_COMPLETION, sample_ids[incomplete], ~mask[incomplete], torch.from_numpy(missing)[incomplete]
    )
    positions = mask.nonzero()[:, 1].view(len(sample_ids), num_masked)
    return ImageMasks(mask, positions)


def _proposal_words(seed: int, sample_ids: Tensor, first: int) -> np.ndarray:
    """Return the random words of proposals from `first` on: (4, DRAWN_AT_ONCE, B) for area, aspect, row and column."""
    proposals = first + torch.arange(DRAWN_AT_ONCE)[:, None]
    return torch.stack(random_words(seed, Stream.IMAGE_BLOCKS, sample_ids, proposals)).numpy()


def _next_blocks(
    words: np.ndarray, free: np.ndarray, missing: np.ndarray, min_block: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find each image's first proposed block that fits.

    words: (4, attempts, B); free: (G, B) bits; missing: (B,). Returns the newly masked patches, (G, B) bits; their
    number, (B,), 0 if no block fits; and the number of proposals made, (B,).
    """
    grid_size, images = len(free), np.arange(len(missing))
    rows = np.arange(grid_size, dtype=free.dtype)[:, None, None]
    levels, aspects = words[0] * AREA_LEVELS >> 32, words[1] * ASPECT_LEVELS >> 32
    area = (min_block * AREA_LEVELS + levels * (missing - min_block)).astype(np.float32) / AREA_LEVELS
    sides = np.sqrt(area) * _sqrt_aspects(torch.device("cpu")).numpy()[:, aspects]
    size = (sides + 0.5).astype(np.int64)  # (2, attempts, B): height, width
    size *= (size < grid_size).all(0)  # a block of no patches is not accepted
    start = words[2:] * (grid_size + 1 - size) >> 32
    block_rows, block_columns = (((1 << size) - 1) << start).astype(free.dtype)
    new = (block_rows >> rows & 1) * block_columns & free[:, None]  # (G, attempts, B)
    num_new = np.bitwise_count(new).sum(0, dtype=np.int16)
    fits = (num_new > 0) & (num_new <= missing)
    first, found = fits.argmax(0), fits.any(0)
    return new[:, first, images] * found, num_new[first, images] * found, first + 1


@lru_cache
def _sqrt_aspects(device: torch.device) -> Tensor:
    """Return square roots of aspect ratios log-uniform in [0.3, 1 / 0.3], and their inverses: (2, ASPECT_LEVELS)
    float32."""
    middle = (torch.arange(ASPECT_LEVELS, dtype=torch.float64) + 0.5) / ASPECT_LEVELS
    sqrt_aspects = (math.log(MIN_ASPECT) * (0.5 - middle)).exp()
    return torch.stack([sqrt_aspects, 1 / sqrt_aspects]).to(device, torch.float32)


_MAX_ATTEMPTS = tl.constexpr(MAX_ATTEMPTS)
_ASPECT_LEVELS = tl.constexpr(ASPECT_LEVELS)
_AREA_LEVELS = tl.constexpr(AREA_LEVELS)
_IMAGE_BLOCKS = tl.constexpr(int(Stream.IMAGE_BLOCKS))
_IMAGE_COMPLETION = tl.constexpr(int(Stream.IMAGE_COMPLETION))


@jit(do_not_specialize=["seed", "num_images", "num_masked", "min_block"])
def _block_masks_kernel(
    sample_ids_ptr, sqrt_aspects_ptr, mask_ptr, positions_ptr, seed, num_images, num_masked, min_block,
    GRID: tl.constexpr, PATCHES: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    images = tl.program_id(0) * IMAGES + tl.arange(0, IMAGES).to(tl.int64)
    exists = images < num_images
    sample_ids = tl.load(sample_ids_ptr + images, mask=exists, other=0)
    low, high = sample_ids.to(tl.uint32), (sample_ids >> 32).to(tl.uint32)
    patches = tl.arange(0, PATCHES)[None, :]
    rows, columns = patches // GRID, patches % GRID
    free = (patches < GRID * GRID) & exists[:, None]
    missing = tl.where(exists, num_masked, 0).to(tl.int32)
    attempts = tl.zeros([IMAGES], tl.int32)
    proposal = tl.zeros([IMAGES], tl.uint32)
    # images of a program that are complete wait for the others: proposals that come then do not fit
    while tl.max(((missing > 0) & (attempts < _MAX_ATTEMPTS)).to(tl.int32), 0) > 0:
        word0, word1, word2, word3 = tl.philox(seed, proposal, _IMAGE_BLOCKS, low, high)
        level = tl.umulhi(word0, tl.cast(_AREA_LEVELS, tl.uint32)).to(tl.int32)
        aspect = tl.umulhi(word1, tl.cast(_ASPECT_LEVELS, tl.uint32)).to(tl.int32)
        area = (min_block * _AREA_LEVELS + level * (missing - min_block)).to(tl.float32) * (1.0 / _AREA_LEVELS)
        side = tl.sqrt_rn(area)  # correctly rounded, as on a CPU; tl.sqrt is an approximation
        height = (side * tl.load(sqrt_aspects_ptr + aspect) + 0.5).to(tl.int32)
        width = (side * tl.load(sqrt_aspects_ptr + _ASPECT_LEVELS + aspect) + 0.5).to(tl.int32)
        top = tl.umulhi(word2, tl.maximum(GRID + 1 - height, 1).to(tl.uint32)).to(tl.int32)
        left = tl.umulhi(word3, tl.maximum(GRID + 1 - width, 1).to(tl.uint32)).to(tl.int32)
        in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
        in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
        new = free & in_rows & in_columns
        num_new = tl.sum(new.to(tl.int32), 1)
        fits = (height < GRID) & (width < GRID) & (num_new > 0) & (num_new <= missing) & (attempts < _MAX_ATTEMPTS)
        free = free & ~(new & fits[:, None])
        missing -= tl.where(fits, num_new, 0)
        attempts = tl.where(fits, 0, attempts + 1)
        proposal += 1
    masked = (patches < GRID * GRID) & exists[:, None] & ~free
    if tl.max(missing, 0) > 0:
        words, _, _, _ = tl.philox(seed, patches, _IMAGE_COMPLETION, low[:, None], high[:, None])
        masked = masked | random_choice(words, patches, free, missing)
    slots = tl.cumsum(masked.to(tl.int32), 1) - 1
    inside = (patches < GRID * GRID) & exists[:, None]
    tl.store(mask_ptr + images[:, None] * (GRID * GRID) + patches, masked, mask=inside)
    tl.store(positions_ptr + images[:, None] * num_masked + slots, patches, mask=masked)


def block_image_masks(
    seed: int,
    sample_ids: Tensor,
    grid_size: int,
    num_masked: int,
    min_block: int,
    backend: Backend,
) -> ImageMasks:
    """Return the masks of samples (B,) int64.

    Raises ValueError if the count is impossible or the grid is too large for the kernel.
    """
    num_patches = grid_size**2
    if not 0 <= num_masked <= num_patches:
        raise ValueError(f"num_masked {num_masked} must lie in 0..{num_patches}, the patches of an image; change it")
    if backend != "triton":
        on_cpu = sample_ids.device.type == "cpu"
        compute = block_image_masks_on_cpu if on_cpu else block_image_masks_reference
        return compute(seed, sample_ids, grid_size, num_masked, min_block)
    if num_patches > MAX_POSITIONS:
        raise ValueError(
            f"an image of {num_patches} patches exceeds the {MAX_POSITIONS} of kernels triton; set kernels to reference"
        )
    assert sample_ids.is_contiguous()
    num_images, device = len(sample_ids), sample_ids.device
    mask = torch.empty(num_images, num_patches, dtype=torch.bool, device=device)
    positions = torch.empty(num_images, num_masked, dtype=torch.int64, device=device)
    if num_images:
        block = block_size(num_patches)
        images = samples_per_program(num_images, block)
        _block_masks_kernel[(-(-num_images // images),)](
            sample_ids, _sqrt_aspects(device), mask, positions, seed & WORD64, num_images, num_masked, min_block,
            GRID=grid_size, PATCHES=block, IMAGES=images, num_warps=max(1, block // 256),
            enable_fp_fusion=False,  # a fused multiply-add would round once and give other blocks
        )  # fmt: skip
    return ImageMasks(mask, positions)


def whole_images(seed: int, sample_ids: Tensor, share: float) -> Tensor:
    """Return which images stay whole, without any masked patch: (B,) bool, each with the probability `share`.

    sample_ids: (B,) int64. Their share over a run is `share`; their number per batch varies.
    """
    return uniform(random_words(seed, Stream.WHOLE_IMAGES, sample_ids, 0)[0]) < share
