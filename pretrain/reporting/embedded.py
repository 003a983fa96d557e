"""Pictures as data URIs, which a page holds itself."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

LARGEST_PNG = 128 * 128
"""Pixels up to which a picture is stored without loss; larger ones as JPEG, a tenth of the bytes."""
JPEG_QUALITY = 88


def data_uri(picture: Tensor, is_exact: bool = False) -> str:
    """Return a picture (3, H, W) uint8 as a data URI. is_exact: store it without loss, whatever its size."""
    image = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()))
    file, kind = io.BytesIO(), "png" if is_exact or image.width * image.height <= LARGEST_PNG else "jpeg"
    image.save(file, kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def stacked(patches: Tensor) -> Tensor:
    """Return N rows of K patches, (N, K, 3, P, P), as one picture (3, N P, K P)."""
    rows, columns, channels, height, width = patches.shape
    return patches.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def cut(images: Tensor, patch_size: int) -> Tensor:
    """Return the patches of images (B, 3, S, S) as (B, patches, 3, P, P), row by row."""
    batch, channels, side, _ = images.shape
    grid = side // patch_size
    patches = images.reshape(batch, channels, grid, patch_size, grid, patch_size)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, channels, patch_size, patch_size)


def joined(patches: Tensor) -> Tensor:
    """Return the patches (N, 3, P, P) of one image, row by row, as a picture (3, S, S)."""
    grid = round(len(patches) ** 0.5)
    return stacked(patches.unflatten(0, (grid, grid)))
