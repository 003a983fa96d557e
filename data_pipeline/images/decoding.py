"""Encoded images to upright RGB pixels, by Pillow alone: what the commands and the loader have in common.

An image is opened by the first bytes of its file, and what its header says is bounded before a pixel is decoded.
"""

import io

import numpy as np
from PIL import ExifTags, Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from data_pipeline.images.headers import MAX_SIDE, check_jpeg, has_bounded_exif, lean_png, webp_size
from data_pipeline.samples.sample import BadSampleError

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

STRIP_PIXELS = 1 << 22
"""Larger images become RGB in strips of this size, which bounds the copies in memory."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""


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
