"""Images of a Python program as inputs of a network: Pillow's, files, encoded bytes, or tensors of pixels.

Shapes: B images, S side in pixels of the network's images.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import interpolate

from data_pipeline.images.transform import kept_box
from data_pipeline.samples.records import read_image
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.writer import as_stored
from pretrain.formats.preprocessing import Preprocessing

OneImage = Image | Path | str | bytes
"""An image of Pillow's, the path of a file, or the bytes of one."""
Images = OneImage | Sequence[OneImage] | Tensor
"""One image, several, or pixels (3, H, W) or (B, 3, H, W): uint8, or floating from 0 to 1."""


def normalized(pixels: Tensor, preprocessing: Preprocessing, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return pixels (B, 3, S, S) as the network takes them; uint8, or floating from 0 to 1."""
    is_bytes = pixels.dtype == torch.uint8
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = pixels.to(device).float()
    return ((pixels / 255 if is_bytes else pixels) - mean).div_(std).to(dtype)


def pixels_of(images: Images, preprocessing: Preprocessing) -> list[OneImage] | Tensor:
    """Return the images in a list, or the pixels of a tensor as (B, 3, S, S).

    Raises ValueError for a tensor of another shape, type or range.
    """
    if not isinstance(images, Tensor):
        return [images] if isinstance(images, (Image, Path, str, bytes)) else list(images)
    pixels = images[None] if images.dim() == 3 else images
    if pixels.dim() != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise ValueError(
            f"pixels have the shape {tuple(images.shape)}; give (3, height, width) or (images, 3, height, width), "
            "channels first"
        )
    if pixels.dtype != torch.uint8:
        _check_range(pixels)
    size = preprocessing.image_size
    left, top, right, bottom = kept_box(pixels.shape[3], pixels.shape[2], preprocessing.crop_mode)
    pixels = pixels[:, :, top:bottom, left:right]
    if pixels.shape[2:] == (size, size):
        return pixels
    # torch resizes bytes on a CPU, and halves on a GPU alone
    pixels = pixels.cpu() if pixels.dtype == torch.uint8 else pixels.float()
    resized = interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized if pixels.dtype == torch.uint8 else resized.clamp(0, 1)


def decoded(images: list[OneImage], preprocessing: Preprocessing) -> Tensor:
    """Return images as (B, 3, S, S) uint8. Raises ValueError with the place of an image that is unusable."""
    transform = preprocessing.image_transform()
    rows = []
    for place, image in enumerate(images):
        try:
            if not isinstance(image, (Image, Path, str, bytes)):
                raise ValueError(
                    f"image {place} is of type {type(image).__name__}; give an image of Pillow's, a path, bytes, or a "
                    "tensor (images, 3, height, width)"
                )
            if isinstance(image, Image):
                row = transform.center_of(image)
            else:
                content = image if isinstance(image, bytes) else read_image(Path(image))
                row = transform.center(as_stored(content, transform.max_pixels))
        except BadSampleError as error:
            raise ValueError(f"image {place}: {error}") from error
        rows.append(torch.from_numpy(row))
    return torch.stack(rows)


def _check_range(pixels: Tensor) -> None:
    if not pixels.is_floating_point():
        raise ValueError(f"pixels are {pixels.dtype}; give uint8 from 0 to 255, or floating numbers from 0 to 1")
    if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):  # in this form NaN is refused too
        raise ValueError(
            f"pixels are from {pixels.min().item():.3g} to {pixels.max().item():.3g}; give floating numbers from 0 to "
            "1, or uint8: they are normalized here"
        )
