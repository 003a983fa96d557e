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

Pixels from outside of the image are gray. Classification on ImageNet has other operations: imagenet_augment.py.

Source: Cubuk et al., "RandAugment" (arXiv 1909.13719), as in unilm/beit3, randaug.py and datasets.py. timm's and
torchvision's classes draw from global generators and have not these operations, probabilities and magnitudes. The
operations are Pillow's in theirs and here; Microsoft's are written to give the same output.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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


def moved(
    rows: Callable[[float, int, int], tuple[float, ...]],
    most: float,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
    fill: tuple[int, int, int] = GRAY,
) -> Operation:
    """Return an operation that fills each pixel (x, y) of the result from (a x + b y + c, d x + e y + f).

    rows: takes the signed shear or translation, of up to `most`, and the image's width and height, and gives a to f.
    """

    def move(image: Image.Image, strength: float, direction: int) -> Image.Image:
        numbers = rows(-direction * strength * most, *image.size)  # backwards, from the result to the image
        return image.transform(image.size, Image.Transform.AFFINE, numbers, resampling, fillcolor=fill)

    return move


def rotated(resampling: Image.Resampling = Image.Resampling.BILINEAR, fill: tuple[int, int, int] = GRAY) -> Operation:
    """Return an operation that rotates by up to 30 degrees."""
    return lambda image, strength, direction: image.rotate(
        direction * strength * MAX_DEGREES, resampling, fillcolor=fill
    )


def _enhanced(enhancer: type[ImageEnhance.Brightness | ImageEnhance.Sharpness]) -> Operation:
    """Return an operation that raises a property of the image by a factor of up to 1.9."""
    return lambda image, strength, _: enhancer(image).enhance(0.1 + 1.8 * strength)


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, *_: image,
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Brightness": _enhanced(ImageEnhance.Brightness),
    "Sharpness": _enhanced(ImageEnhance.Sharpness),
    "ShearX": moved(lambda shear, *_: (1, shear, 0, 0, 1, 0), MAX_SHEAR),
    "ShearY": moved(lambda shear, *_: (1, 0, 0, shear, 1, 0), MAX_SHEAR),
    "TranslateX": moved(lambda pixels, *_: (1, 0, pixels, 0, 1, 0), MAX_TRANSLATION),
    "TranslateY": moved(lambda pixels, *_: (1, 0, 0, 0, 1, pixels), MAX_TRANSLATION),
    "Rotate": rotated(),
}
"""The operations by their published names. Their order is part of a run's definition."""


@dataclass(frozen=True)
class RandAugment:
    """Random operations on one view."""

    num_ops: int = 2
    """Number of operations that are drawn."""
    magnitude: float = 7
    """Strength of an operation, from 0 to 10."""
    deviation: float = 0
    """Standard deviation of the strength, which is cut at 0 and 10; 0: always the magnitude."""
    operations: Mapping[str, Operation] = field(default_factory=lambda: OPERATIONS)

    def __post_init__(self) -> None:
        if self.num_ops < 0 or not 0 <= self.magnitude <= MAX_MAGNITUDE or self.deviation < 0:
            raise ValueError(
                f"RandAugment with {self.num_ops} operations of magnitude {self.magnitude} and deviation "
                f"{self.deviation}: the magnitude must be from 0 to {MAX_MAGNITUDE}, the others at least 0"
            )

    def __call__(self, view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return the changed view, (3, H, W) -> (3, H, W). The view itself is left alone."""
        names = rng.choice(list(self.operations), self.num_ops)
        is_applied = rng.random(self.num_ops) < APPLY_PROBABILITY
        directions = rng.choice((1, -1), self.num_ops)
        strengths = rng.normal(self.magnitude, self.deviation, self.num_ops).clip(0, MAX_MAGNITUDE) / MAX_MAGNITUDE
        image = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
        for name, strength, direction in zip(
            *(drawn[is_applied] for drawn in (names, strengths, directions)), strict=True
        ):
            image = self.operations[name](image, float(strength), int(direction))
        return np.array(image).transpose(2, 0, 1)
