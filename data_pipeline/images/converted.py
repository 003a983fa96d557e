"""Images in formats that write_shards converts to JPEG: GIF, BMP, TIFF and AVIF.

Pillow can open more, which is left out on purpose: it would run Ghostscript for an EPS, and its rarer readers are not
made for untrusted files.
"""

import importlib
import warnings
from typing import Any

from PIL import Image, features
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from data_pipeline.images.decoding import is_stored_format, open_as, open_image, to_rgb
from data_pipeline.images.headers import MAX_EXIF_BYTES, has_bounded_tiffs, is_bounded_tiff
from data_pipeline.samples.sample import BadSampleError

_AVIF_BRANDS = (b"ftypavif", b"ftypavis")
_FILE_CLASSES: dict[bytes, type[ImageFile]] = {
    b"GIF87a": GifImageFile,
    b"GIF89a": GifImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}


def open_any(encoded: bytes, max_pixels: int) -> ImageFile:
    """Open an image in a stored or converted format, reading only its header.

    Raises BadSampleError as open_image does.
    """
    if is_stored_format(encoded):
        return open_image(encoded, max_pixels)
    file_class = next((found for magic, found in _FILE_CLASSES.items() if encoded.startswith(magic)), None)
    if encoded[4:12] in _AVIF_BRANDS:
        file_class = _avif_class()
    if file_class is None:
        raise BadSampleError("image cannot be decoded (none of JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF)")
    is_tiff, is_avif = file_class is TiffImageFile, encoded[4:12] in _AVIF_BRANDS
    if (is_tiff and not is_bounded_tiff(memoryview(encoded))) or (is_avif and not has_bounded_tiffs(encoded)):
        raise BadSampleError(f"image has too much metadata (entries of more than {MAX_EXIF_BYTES} bytes)")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about large images, for which max_pixels decides
        return open_as(file_class, encoded, max_pixels)


def converted_to_rgb(image: ImageFile) -> Image.Image:
    """Return the image as 8-bit RGB on white. Raises BadSampleError for pixels of 32 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.load()
    return to_rgb(image)


def _avif_class() -> type[ImageFile]:
    """Return the AVIF reader that Pillow has since 11.3 in most builds, with one thread: there is a worker per core."""
    if not features.check("avif"):
        raise BadSampleError("image cannot be decoded (an AVIF, which this build of Pillow cannot read; install 11.3)")
    plugin: Any = importlib.import_module("PIL.AvifImagePlugin")
    plugin.DEFAULT_MAX_THREADS = 1
    return plugin.AvifImageFile
