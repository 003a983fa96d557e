"""RandAugment with the operations and magnitudes of Microsoft's finetuning code, computed by Pillow.

A view gets two operations, drawn from ten with replacement; each is then applied with probability 1/2. At the published
magnitude of 7 out of 10:

| operation                | by                                                             |
| ------------------------ | -------------------------------------------------------------- |
| Identity                 | nothing                                                        |
| AutoContrast, Equalize   | each channel on its own                                        |
| Brightness, Sharpness    | the factor 1.36, always an increase                            |
| ShearX, ShearY           | 0.21 pixels per pixel, in a random direction                   |
| TranslateX, TranslateY   | 7 pixels whatever the size of the image, in a random direction |
| Rotate                   | 21 degrees around the center, in a random direction            |

Pixels from outside of the image are gray. Source: Cubuk et al., "RandAugment" (arXiv 1909.13719), as in unilm/beit3,
randaug.py and datasets.py. timm's and torchvision's classes have other operations, probabilities and magnitudes, and
draw from global generators; the operations themselves are Pillow's in theirs, in Microsoft's by definition, and here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 10
APPLY_PROBABILITY = 0.5
"""Probability that a drawn operation is applied."""
MAX_SHEAR = 0.3
MAX_TRANSLATION = 10
"""Pixels at the highest magnitude."""
MAX_DEGREES = 30
GRAY = (128, 128, 128)
"""Color of pixels from outside of the image."""

Operation = Callable[[Image.Image, float, int], Image.Image]
"""Takes an image, the strength from 0 to 1, and a direction, 1 or -1."""


@dataclass(frozen=True)
class RandAugment:
    """Random operations on one view."""

    num_ops: int = 2
    """Number of operations that are drawn."""
    magnitude: int = 7
    """Strength of every operation, from 0 to 10."""

    def __post_init__(self) -> None:
        if self.num_ops < 0 or not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(
                f"RandAugment with {self.num_ops} operations of magnitude {self.magnitude}: their number must be at "
                f"least 0, and the magnitude from 0 to {MAX_MAGNITUDE}"
            )

    def __call__(self, view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the changed view, (3, H, W) -> (3, H, W). The view itself is left alone."""
        operations = rng.choice(list(OPERATIONS), self.num_ops)
        is_applied = rng.random(self.num_ops) < APPLY_PROBABILITY
        directions = rng.choice((1, -1), self.num_ops)
        image = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
        for name, direction in zip(operations[is_applied], directions[is_applied], strict=True):
            image = OPERATIONS[name](image, self.magnitude / MAX_MAGNITUDE, int(direction))
        return np.array(image).transpose(2, 0, 1)


def _enhanced(enhancer: type[ImageEnhance.Brightness | ImageEnhance.Sharpness]) -> Operation:
    """Return an operation that raises a property of the image by a factor of up to 1.9."""
    return lambda image, strength, _: enhancer(image).enhance(0.1 + 1.8 * strength)


def _moved(rows: Callable[[float], tuple[float, ...]], most: float) -> Operation:
    """Return an operation that fills each pixel (x, y) of the result from (a x + b y + c, d x + e y + f).

    rows: takes the signed shear or translation, of up to `most`, and gives a to f.
    """

    def move(image: Image.Image, strength: float, direction: int) -> Image.Image:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            rows(-direction * strength * most),  # backwards, from the result to the image
            Image.Resampling.BILINEAR,
            fillcolor=GRAY,
        )

    return move


def _rotated(image: Image.Image, strength: float, direction: int) -> Image.Image:
    return image.rotate(direction * strength * MAX_DEGREES, Image.Resampling.BILINEAR, fillcolor=GRAY)


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, *_: image,
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Brightness": _enhanced(ImageEnhance.Brightness),
    "Sharpness": _enhanced(ImageEnhance.Sharpness),
    "ShearX": _moved(lambda shear: (1, shear, 0, 0, 1, 0), MAX_SHEAR),
    "ShearY": _moved(lambda shear: (1, 0, 0, shear, 1, 0), MAX_SHEAR),
    "TranslateX": _moved(lambda pixels: (1, 0, pixels, 0, 1, 0), MAX_TRANSLATION),
    "TranslateY": _moved(lambda pixels: (1, 0, 0, 0, 1, pixels), MAX_TRANSLATION),
    "Rotate": _rotated,
}
"""The operations by their published names. Their order is part of a run's definition."""
