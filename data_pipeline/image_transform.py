"""BEiT's augmentation: one random crop, color jitter, flip. Two views of it are made on the device.

Source: unilm/beit2 (RandomResizedCropAndInterpolationWithTwoPic). Ours: the jitter comes after the crop, on the few
pixels that remain, and a JPEG is decoded at the reduced size that the crop allows.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from data_pipeline.samples import BadSampleError

CROP_ATTEMPTS = 10
FORMATS = ("JPEG", "PNG", "WEBP")
"""Whatever a member is named: Pillow would run Ghostscript for an EPS."""
MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels"""


@dataclass(frozen=True)
class ImageTransform:
    """Encoded bytes to a square uint8 image."""

    size: int
    """Side of the result in pixels."""
    min_crop_scale: float
    """Smallest part of the area that a random crop keeps (BEiT v2: 0.2)."""
    color_jitter: float
    """Brightness, contrast and saturation factors are drawn from 1 - color_jitter .. 1 + color_jitter."""
    horizontal_flip: bool
    """Mirror half of the images. Not for captions that say left and right."""
    max_pixels: int
    """Larger images are bad samples; told from the header, before decoding."""

    def __call__(self, encoded: bytes, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A random view, (3, size, size). Raises BadSampleError where the bytes are no usable image."""
        return self._decode(encoded, rng)

    def center(self, encoded: bytes) -> NDArray[np.uint8]:
        """The whole image without augmentation, its sides scaled to (3, size, size)."""
        return self._decode(encoded, None)

    def _decode(self, encoded: bytes, rng: np.random.Generator | None) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
                width, height = image.size
                if width * height > self.max_pixels:
                    raise BadSampleError(f"{width} x {height} pixels exceed max_image_pixels")
                box = (0.0, 0.0, width, height) if rng is None else random_crop(width, height, self.min_crop_scale, rng)
                crop = self._crop(image, box)
        except BadSampleError:
            raise
        except Exception as error:  # a decoder fed with broken bytes raises anything
            raise BadSampleError(f"image cannot be decoded ({error})") from error
        if rng is not None:
            crop = self._augment(crop, rng)
        return np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1))

    def _crop(self, image: Image.Image, box: Box) -> Image.Image:
        """The box, resized; decoded at the smallest JPEG scale that still has `size` pixels for it."""
        width, height = image.size
        shrink = min(box[2] - box[0], box[3] - box[1]) / self.size
        if image.format == "JPEG" and shrink > 1:
            image.draft("RGB", (int(width / shrink), int(height / shrink)))
        scale_x, scale_y = image.size[0] / width, image.size[1] / height
        box = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
        return _to_rgb(image).resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)

    def _augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
        factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=len(enhancers))
        for i in rng.permutation(len(enhancers)):
            image = enhancers[i](image).enhance(float(factors[i]))
        flip = rng.random() < 0.5
        return ImageOps.mirror(image) if flip and self.horizontal_flip else image


def random_crop(width: int, height: int, min_scale: float, rng: np.random.Generator) -> Box:
    """A box of min_scale..1 of the area and aspect 3/4..4/3; the largest center crop allowed if ten draws fail."""
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
