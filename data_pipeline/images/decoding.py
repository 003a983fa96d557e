"""Encoded images to upright RGB pixels, by Pillow alone, for the commands and for the loader.

The first bytes of a file decide its format, and its header is checked before a pixel is decoded.
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
"""Readers by the first bytes of a file, whatever its name: Pillow would run Ghostscript for an EPS."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns an image upright, by its EXIF orientation."""

STRIP_PIXELS = 1 << 22
"""Larger images are converted to RGB in strips of this size, which bounds the copies in memory."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge, in pixels."""


def open_image(encoded: bytes, max_pixels: int) -> ImageFile:
    """Open a JPEG, PNG or WebP, reading only its header; of several frames the first is shown.

    Raises BadSampleError for any other file, and if the header announces more than max_pixels, or data whose decoding
    would take time or memory out of proportion to the pixels.
    """
    file_class = next((found for magic, found in _FILE_CLASSES.items() if encoded.startswith(magic)), None)
    if file_class is None:
        raise BadSampleError("image cannot be decoded (neither JPEG nor PNG nor WebP)")
    if file_class is JpegImageFile:
        check_jpeg(encoded)
    elif file_class is PngImageFile:
        encoded = lean_png(encoded)
    elif size := webp_size(encoded):  # its decoder allocates all pixels before it reports how many there are
        check_size(*size, max_pixels)
    return open_as(file_class, encoded, max_pixels)


def is_stored_format(encoded: bytes) -> bool:
    """Return whether the first bytes are those of a format that shards hold."""
    return encoded.startswith(tuple(_FILE_CLASSES))


def open_as(file_class: type[ImageFile], encoded: bytes, max_pixels: int) -> ImageFile:
    """Open an image of a known format; not by Image.open, which has its own rule for large images.

    Raises BadSampleError if it is damaged or has more than max_pixels.
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
    """Raise BadSampleError for an image that is too large or has no pixels."""
    if width * height > max_pixels:
        raise BadSampleError(f"image exceeds max_image_pixels ({width} x {height} pixels)")
    if max(width, height) > MAX_SIDE:
        raise BadSampleError(f"image has a side above {MAX_SIDE} pixels ({width} x {height} pixels)")
    if min(width, height) < 1:
        raise BadSampleError(f"image has no pixels ({width} x {height} pixels)")


def to_rgb(image: Image.Image, box: Box | None = None) -> Image.Image:
    """Return the image, or a box of it, as 8-bit RGB; transparent pixels become white.

    Of a CMYK JPEG give the image that was opened, not a copy, which no longer tells whether it is inverted. Raises
    BadSampleError for pixels of 32 bits.
    """
    if image.mode in ("F", "I"):
        raise BadSampleError("image has pixels of 32 bits, whose black and white are not known")
    # Pillow takes every CMYK JPEG for one of Adobe's, which are stored inverted; other formats it reads as they are
    is_inverted = image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info
    left, top, right, bottom = box or (0, 0, *image.size)
    rows = max(1, STRIP_PIXELS // (right - left))
    if rows >= bottom - top:
        return _to_rgb(image.crop((left, top, right, bottom)) if box else image, is_inverted)
    whole = Image.new("RGB", (right - left, bottom - top))
    for start in range(top, bottom, rows):
        strip = image.crop((left, start, right, min(start + rows, bottom)))
        whole.paste(_to_rgb(strip, is_inverted), (0, start - top))
    return whole


def _to_rgb(image: Image.Image, is_inverted: bool) -> Image.Image:
    if image.mode.startswith("I"):
        image = _gray_of_8_bits(image)
    if is_inverted:
        image = ImageChops.invert(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def upright(image: Image.Image, source: Image.Image) -> Image.Image:
    """Return the image turned by its source's EXIF orientation. Load it first: in a PNG, EXIF may follow the pixels."""
    try:
        is_known = has_bounded_exif(source.info)
        turn = UPRIGHT.get(source.getexif().get(ExifTags.Base.Orientation, 1)) if is_known else None
    except Exception:  # broken EXIF data does not make an image unusable
        turn = None
    return image if turn is None else image.transpose(turn)


def _gray_of_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits (modes I;16, I;16B) scaled to 8 bits: Pillow's own conversion clips at 255."""
    values = np.asarray(image).astype(np.int64)
    gray = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if "transparency" in image.info:
        gray[values == image.info["transparency"]] = 255
    return Image.fromarray(gray)
