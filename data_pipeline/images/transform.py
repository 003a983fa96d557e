"""BEiT's augmentation: one random crop, color jitter, flip. Two views of it are made on the device.

Source: unilm/beit2 (RandomResizedCropAndInterpolationWithTwoPic). Ours: the jitter comes after the crop, on the few
pixels that remain, and a JPEG is decoded at the reduced size that the crop allows. Pillow decodes, torch resizes, numpy
jitters: to Pillow's own results within 2 and 3 levels, in half of the time.

Shapes: S side of the result; H, W sides of the crop.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_pipeline.images.headers import MAX_SIDE, check_jpeg, has_bounded_exif, lean_png, webp_size
from data_pipeline.samples.sample import BadSampleError

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
CROP_ATTEMPTS = 10
MIN_ASPECT, MAX_ASPECT = 3 / 4, 4 / 3

_FILE_CLASSES: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"RIFF": WebPImageFile,
}
"""By the first bytes of a file, whatever it is named: Pillow would run Ghostscript for an EPS."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Of red, green and blue in a gray value (ITU-R 601-2)."""

STRIP_PIXELS = 1 << 22
"""Larger images become RGB in strips of this size, which bounds the copies in memory."""

Box = tuple[int, int, int, int]
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
        """A random view, (3, S, S). Raises BadSampleError where the bytes are no usable image."""
        with open_image(encoded, self.max_pixels) as image:
            box = random_crop(*image.size, self.min_crop_scale, rng)
            factors = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3)
            order = rng.permutation(3)
            mirror = rng.random() < 0.5
            view = _resized(_decoded_crop(image, box, self.size), self.size)
        if self.color_jitter:
            view = jittered(view, factors.astype(np.float32), order)
        return view[:, :, ::-1] if mirror and self.horizontal_flip else view

    def center(self, encoded: bytes) -> NDArray[np.uint8]:
        """The whole image without augmentation, its sides scaled to (3, S, S)."""
        with open_image(encoded, self.max_pixels) as image:
            return _resized(_decoded_crop(image, (0, 0, *image.size), self.size), self.size)


def open_image(encoded: bytes, max_pixels: int) -> ImageFile:
    """A JPEG, PNG or WebP of which only the header is read; with several frames it stands at the first.

    Raises BadSampleError for anything else, and from the header where there are more than max_pixels or where decoding
    would take time or memory out of proportion to them.
    """
    file_class = next((found for magic, found in _FILE_CLASSES.items() if encoded.startswith(magic)), None)
    if file_class is None:
        raise BadSampleError("image cannot be decoded (neither JPEG nor PNG nor WebP)")
    if file_class is JpegImageFile:
        check_jpeg(encoded)
    elif file_class is PngImageFile:
        encoded = lean_png(encoded)
    elif size := webp_size(encoded):  # its decoder takes memory for all pixels before it says how many they are
        check_size(*size, max_pixels)
    return open_as(file_class, encoded, max_pixels)


def is_stored_format(encoded: bytes) -> bool:
    """Is it, by its first bytes, of a format that shards hold?"""
    return encoded.startswith(tuple(_FILE_CLASSES))


def open_as(file_class: type[ImageFile], encoded: bytes, max_pixels: int) -> ImageFile:
    """An image of a known format. Not by Image.open, which warns of large images or refuses them by a rule of its own.

    Raises BadSampleError where it is none, and where it has more than max_pixels.
    """
    try:
        image = file_class(io.BytesIO(encoded), "")
    except Image.DecompressionBombError as error:
        raise BadSampleError(f"image exceeds max_image_pixels ({error})") from error
    except Exception as error:
        raise BadSampleError(f"image cannot be decoded ({error})") from error
    check_size(*image.size, max_pixels)
    image.decodermaxblock = len(encoded)  # the bytes are in memory: in one piece a JPEG decodes faster
    return image


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadSampleError for an image that is too large, or has no pixel."""
    if width * height > max_pixels:
        raise BadSampleError(f"image exceeds max_image_pixels ({width} x {height} pixels)")
    if max(width, height) > MAX_SIDE:
        raise BadSampleError(f"image has a side above {MAX_SIDE} pixels ({width} x {height} pixels)")
    if min(width, height) < 1:
        raise BadSampleError(f"image has no pixels ({width} x {height} pixels)")


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


def jittered(image: NDArray[np.uint8], factors: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """BRIGHTNESS, CONTRAST and SATURATION scaled by their factors, in the given order.

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
            torch.from_numpy(pixels).clamp_(0, 255)  # numpy's clip takes three times as long
    return pixels.astype(np.uint8)


def to_rgb(image: Image.Image, box: Box | None = None) -> Image.Image:
    """RGB of 8 bits of the image or a box of it; what is transparent becomes white."""
    left, top, right, bottom = box or (0, 0, *image.size)
    rows = max(1, STRIP_PIXELS // (right - left))
    if rows >= bottom - top:
        return _to_rgb(image.crop((left, top, right, bottom)) if box else image)
    whole = Image.new("RGB", (right - left, bottom - top))
    for start in range(top, bottom, rows):
        whole.paste(_to_rgb(image.crop((left, start, right, min(start + rows, bottom)))), (0, start - top))
    return whole


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _gray_of_8_bits(image)
    if image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for one of Adobe's, which are inverted
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image, source: ImageFile) -> Image.Image:
    """The image turned as its source's EXIF orientation says. After loading: a PNG may say it behind its pixels."""
    try:
        is_known = has_bounded_exif(source.info)
        turn = _UPRIGHT.get(source.getexif().get(ExifTags.Base.Orientation, 1)) if is_known else None
    except Exception:  # broken EXIF does not make a picture unusable
        turn = None
    return image if turn is None else image.transpose(turn)


def _gray_of_8_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversions of modes I;16 and I clip at 255."""
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    gray = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if "transparency" in image.info:
        gray[values == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def _decoded_crop(image: ImageFile, box: Box, size: int) -> NDArray[np.uint8]:
    """The box as (H, W, 3); of a JPEG, decoded at the smallest scale that still has `size` pixels for it.

    The box is one of the image as stored; a crop that is turned upright is as random as one of the upright image.
    Raises BadSampleError where the bytes are broken.
    """
    width, height = image.size
    shrink = min(box[2] - box[0], box[3] - box[1]) / size
    try:
        if shrink > 1:
            image.draft(image.mode, (int(width / shrink), int(height / shrink)))
        scale = image.size[0] / width
        left, top, right, bottom = (round(edge * scale) for edge in box)
        crop = upright(to_rgb(image, (left, top, min(right, image.size[0]), min(bottom, image.size[1]))), image)
    except Exception as error:  # a decoder fed with broken bytes raises anything
        raise BadSampleError(f"image cannot be decoded ({error})") from error
    return np.array(crop)


def _resized(crop: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W, 3) to (3, S, S), bicubic and antialiased as Pillow's."""
    pixels = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)  # channels last, which torch resizes fastest
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return resized[0].contiguous().numpy()
