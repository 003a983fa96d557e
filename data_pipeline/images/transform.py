"""BEiT's augmentation: one random crop, color jitter and flip, of which the device makes two views.

Source: unilm/beit2 (RandomResizedCropAndInterpolationWithTwoPic). Differences: the jitter comes after the crop, on the
few pixels that remain, and a JPEG is decoded at the reduced size that the crop allows. Pillow decodes, torch resizes
and numpy jitters: within 2 and 3 levels of Pillow's results, in half of the time.

Shapes: S side of the result; H, W sides of the crop.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from data_pipeline.images.decoding import Box, check_size, open_image, to_rgb, upright
from data_pipeline.samples.sample import BadSampleError

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
CROP_ATTEMPTS = 10
MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in a gray value (ITU-R 601-2)."""

Augment = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
"""Takes a view (3, S, S) and a generator, and returns the changed view."""
CropMode = Literal["squash", "center"]
"""Which part of an image becomes a square without augmentation, in timm's words: all of it, whatever its aspect, or the
largest square at its center."""


@dataclass(frozen=True)
class ImageTransform:
    """Turns an encoded image into a square uint8 array."""

    size: int
    """Side of the result in pixels."""
    min_crop_scale: float
    """Smallest fraction of the area that a random crop keeps (BEiT v2: 0.2)."""
    color_jitter: float
    """Brightness, contrast and saturation factors are drawn from 1 - color_jitter .. 1 + color_jitter."""
    horizontal_flip: bool
    """Whether half of the images are mirrored. Not for captions with left and right."""
    max_pixels: int
    """Larger images are bad samples, by their headers, before decoding."""
    rand_augment: Augment | None = None
    """Operations on the view after everything else, as in finetuning: RandAugment or ImageNetAugment; None: none."""
    crop_mode: CropMode = "squash"
    """Part of the image that `center` takes."""

    def __call__(self, encoded: bytes, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return a random view, (3, S, S). Raises BadSampleError if the bytes are not a usable image."""
        with open_image(encoded, self.max_pixels) as image:
            box = random_crop(*image.size, self.min_crop_scale, rng)
            factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3)
            order = rng.permutation(3)
            mirror = rng.random() < 0.5
            view = _resized(_decoded_crop(image, box, self.size), self.size)
        if self.color_jitter:
            view = jittered(view, factors.astype(np.float32), order)
        view = view[:, :, ::-1] if mirror and self.horizontal_flip else view
        return view if self.rand_augment is None else self.rand_augment(view, rng)

    def center(self, encoded: bytes) -> NDArray[np.uint8]:
        """Return the image without augmentation, scaled to (3, S, S). Raises BadSampleError."""
        with open_image(encoded, self.max_pixels) as image:
            box = kept_box(*image.size, self.crop_mode)
            return _resized(_decoded_crop(image, box, self.size), self.size)

    def center_of(self, image: Image) -> NDArray[np.uint8]:
        """Return the same of an image that is open already. A JPEG is decoded at its full size, so its pixels may
        differ by a few levels. Raises BadSampleError if the image is too large or broken."""
        check_size(*image.size, self.max_pixels)
        try:
            box = kept_box(*image.size, self.crop_mode)
            return _resized(np.array(upright(to_rgb(image, box), image)), self.size)
        except BadSampleError:
            raise
        except Exception as error:  # it may be decoded only now
            raise BadSampleError(f"image cannot be decoded ({error})") from error


def kept_box(width: int, height: int, crop_mode: CropMode) -> Box:
    """Return the box of an image that becomes a square without augmentation."""
    if crop_mode == "squash":
        return 0, 0, width, height
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_crop(width: int, height: int, min_scale: float, rng: np.random.Generator) -> Box:
    """Draw a box with min_scale to 1 of the area and aspect 3/4 to 4/3; after ten failures, the largest center crop."""
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(min_scale, 1)
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), math.log(MAX_ASPECT)))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(rng.integers(0, width - crop_width + 1))
            top = int(rng.integers(0, height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = min(width, round(height * MAX_ASPECT)), min(height, round(width / MIN_ASPECT))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def jittered(image: NDArray[np.uint8], factors: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the image with BRIGHTNESS, CONTRAST and SATURATION scaled by their factors, in the given order.

    image: (3, S, S). Within 3 levels of Pillow's ImageEnhance, which rounds down after each step.
    """
    pixels = image.astype(np.float32)
    for kind in order:
        factor = factors[kind]
        if kind == CONTRAST:
            mean_gray = np.dot(GRAY_WEIGHTS, pixels.reshape(3, -1).mean(1)).round()
            pixels *= factor
            pixels += (1 - factor) * mean_gray
        elif kind == SATURATION:
            gray = pixels[0] * GRAY_WEIGHTS[0]
            gray += pixels[1] * GRAY_WEIGHTS[1]
            gray += pixels[2] * GRAY_WEIGHTS[2]
            gray *= 1 - factor
            pixels *= factor
            pixels += gray
        else:
            pixels *= factor
        if factor > 1:
            torch.from_numpy(pixels).clamp_(0, 255)  # three times as fast as numpy's clip
    return pixels.astype(np.uint8)


def _decoded_crop(image: ImageFile, box: Box, size: int) -> NDArray[np.uint8]:
    """Return the box as (H, W, 3). A JPEG is decoded at the smallest scale that still has `size` pixels in the box.

    The box refers to the image as stored: a random crop turned upright is as random as a crop of the upright image.
    Raises BadSampleError if the bytes are broken.
    """
    width, height = image.size
    shrink = min(box[2] - box[0], box[3] - box[1]) / size
    try:
        if shrink > 1:
            image.draft(image.mode, (int(width / shrink), int(height / shrink)))
        scale = image.size[0] / width
        left, top, right, bottom = (round(edge * scale) for edge in box)
        crop = upright(to_rgb(image, (left, top, min(right, image.size[0]), min(bottom, image.size[1]))), image)
    except Exception as error:  # a decoder can raise anything for broken bytes
        raise BadSampleError(f"image cannot be decoded ({error})") from error
    return np.array(crop)


def _resized(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return (H, W, 3) pixels as (3, S, S), bicubic and antialiased like Pillow's resize."""
    pixels = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)  # channels last, which torch resizes fastest
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized[0].contiguous().numpy()
