"""The augmentation of Microsoft's finetuning on ImageNet: timm's policy rand-m9-mstd0.5-inc1 and random erasing.

A view gets two of fifteen operations, each applied with probability 1/2, at a magnitude drawn around 9 of 10; then with
probability 1/4 a box of it is replaced by noise. "inc1" means that every operation grows with the magnitude.

timm's classes draw from the global generators of random, numpy and torch. Here all is drawn from one that a sample's id
keys, and the operations, Pillow's in both, are computed without timm.

Sources: unilm/beit3, run_beit3_finetuning.py (--aa, --reprob, --remode) and timm, data/auto_augment.py and
random_erasing.py; Zhong et al., "Random Erasing Data Augmentation" (arXiv 1708.04896).
Shapes: H, W sides of a view.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from data_pipeline.images.rand_augment import Operation, RandAugment, moved, rotated

MEAN = np.array([0.485, 0.456, 0.406])
"""Mean of ImageNet's colors, from 0 to 1."""
DEVIATION = np.array([0.229, 0.224, 0.225])
FILL = (124, 116, 104)
"""The mean color, for pixels from outside of the image."""
MAX_TRANSLATION = 0.45
"""Part of the image's side at the highest magnitude."""
MIN_AREA, MAX_AREA = 0.02, 1 / 3
"""Parts of the image that an erased box covers."""
MIN_ASPECT = 0.3
"""Smallest ratio of the sides of an erased box; its inverse is the largest."""
ATTEMPTS = 10
"""Boxes that are drawn until one fits into the image."""


def _enhanced(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Return an operation that raises or lowers a property of the image by a factor of 1.9 to 0.1."""
    return lambda image, strength, direction: enhancer(image).enhance(max(0.1, 1 + 0.9 * strength * direction))


def _posterized(image: Image.Image, strength: float, _: int) -> Image.Image:
    """Return the image with its 4 to 0 highest bits: black at the highest magnitude, which one in fifty draws reach."""
    num_bits = 4 - int(4 * strength)
    return image.point([level & (256 - 2 ** (8 - num_bits)) for level in range(256)] * 3)  # Pillow 13 refuses 0 bits


def _solarized(image: Image.Image, strength: float, _: int) -> Image.Image:
    """Return the image with all levels inverted from a threshold, which is lower the stronger."""
    return ImageOps.solarize(image, 256 - int(256 * strength))


def _brightened_shadows(image: Image.Image, strength: float, _: int) -> Image.Image:
    """Return the image with up to 110 added to the levels of its darker half."""
    added = int(110 * strength)
    return image.point([level + added if level < 128 else level for level in range(256)] * 3)


BICUBIC = Image.Resampling.BICUBIC
IMAGENET_OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Invert": lambda image, *_: ImageOps.invert(image),
    "Rotate": rotated(BICUBIC, FILL),
    "PosterizeIncreasing": _posterized,
    "SolarizeIncreasing": _solarized,
    "SolarizeAdd": _brightened_shadows,
    "ColorIncreasing": _enhanced(ImageEnhance.Color),
    "ContrastIncreasing": _enhanced(ImageEnhance.Contrast),
    "BrightnessIncreasing": _enhanced(ImageEnhance.Brightness),
    "SharpnessIncreasing": _enhanced(ImageEnhance.Sharpness),
    "ShearX": moved(lambda shear, *_: (1, shear, 0, 0, 1, 0), 0.3, BICUBIC, FILL),
    "ShearY": moved(lambda shear, *_: (1, 0, 0, shear, 1, 0), 0.3, BICUBIC, FILL),
    "TranslateXRel": moved(lambda part, width, _: (1, 0, part * width, 0, 1, 0), MAX_TRANSLATION, BICUBIC, FILL),
    "TranslateYRel": moved(lambda part, _, height: (1, 0, 0, 0, 1, part * height), MAX_TRANSLATION, BICUBIC, FILL),
}
"""The operations by timm's names. Their order is part of a run's definition."""


IMAGENET_POLICY = RandAugment(num_ops=2, magnitude=9, deviation=0.5, operations=IMAGENET_OPERATIONS)


@dataclass(frozen=True)
class ImageNetAugment:
    """Random operations on one view, and a box of noise."""

    erase_probability: float = 0.25

    def __call__(self, view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the changed view, (3, H, W) -> (3, H, W). The view itself is left alone."""
        view = IMAGENET_POLICY(view, rng)
        return erased(view, rng) if rng.random() < self.erase_probability else view


def erased(view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the view (3, H, W) with a random box of noise, which is normal with ImageNet's mean and deviation.

    timm's noise is not cut at black and white, as it is drawn after normalization; here three in a hundred levels are.
    """
    height, width = view.shape[1:]
    for _ in range(ATTEMPTS):
        area = rng.uniform(MIN_AREA, MAX_AREA) * height * width
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
            noise = MEAN[:, None, None] + DEVIATION[:, None, None] * rng.standard_normal((3, rows, columns))
            changed = view.copy()
            changed[:, top : top + rows, left : left + columns] = (255 * noise).round().clip(0, 255).astype(np.uint8)
            return changed
    return view
