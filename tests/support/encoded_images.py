"""Images for tests of decoding and augmentation, and the transform that reads them."""

import io
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.images.transform import ImageTransform


def transform(size: int = 32, jitter: float = 0.0, flip: bool = False, scale: float = 1.0) -> ImageTransform:
    """Return a transform to squares of `size` pixels."""
    return ImageTransform(size, scale, jitter, flip, max_pixels=1_000_000)


def encoded(image: Image.Image, form: str = "png", **options: Any) -> bytes:
    """Return the file of an image in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Return an RGB image whose colors change from side to side."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))
