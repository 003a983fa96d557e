"""Image files that would cost a decoder too much time or memory are found before decoding; valid files pass."""

import io
import re
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

from data_pipeline.images.headers import MAX_SCANS, is_bounded_exif, lean_png, webp_size
from data_pipeline.images.transform import ImageTransform
from data_pipeline.samples.sample import BadSampleError

TRANSFORM = ImageTransform(32, 1, 0, False, max_pixels=64_000_000)
PICTURE = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(48, 64, 3))


def encoded(form: str, image: Image.Image = PICTURE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(before: bytes = b"", after: bytes = b"") -> bytes:
    """Insert chunks before and after the pixels of a valid PNG."""
    content = encoded("png")
    return content[:33] + before + content[33:-12] + after + content[-12:]


def blank_png(width: int, height: int) -> bytes:
    """Gray, of one bit."""
    rows_at_once = min(height, 1000)
    compressor, rows = zlib.compressobj(1), bytes(1 + -(-width // 8)) * rows_at_once
    pixels = b"".join(compressor.compress(rows) for _ in range(height // rows_at_once)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(before: bytes) -> bytes:
    content = encoded("jpeg")
    return content[:2] + before + content[2:]


def jpeg_of_scans(num_scans: int, width: int = 300, height: int = 200) -> bytes:
    """Repeat the last scan of a progressive JPEG, a dozen bytes each."""
    content = encoded("jpeg", Image.new("RGB", (width, height)), progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", content)]
    return content[:-2] + content[starts[-1] : -2] * (num_scans - len(starts)) + content[-2:]


def exif_of(num_entries: int, num_bytes: int) -> bytes:
    """EXIF entries that each have the whole file as their value."""
    entries = b"".join(struct.pack("<HHII", 1000 + number, 7, num_bytes, 0) for number in range(num_entries))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", num_entries) + entries).ljust(num_bytes, b"\0")


TEXT_BOMB = zlib.compress(bytes(50 << 20))
EXIF_BOMB = exif_of(60_000, 4_000_000)

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "20,000 scans": (lambda: jpeg_of_scans(20_000), "image has too many scans (101 or more of 60000 pixels)"),
    "60 scans of 40 megapixels": (lambda: jpeg_of_scans(60, 8000, 5000), "image has too many scans (51 or more of 4"),
    "segments": (lambda: jpeg_with(segment(0xFE, b"") * 500_000), "image has too much metadata"),
    "padding": (lambda: jpeg_with(b"\xff" * 10_000_000), "image has too much metadata"),
    "ends of image": (lambda: jpeg_with(b"\xff\xd9" * 500_000), "image has too much metadata"),
    "EXIF of a JPEG": (
        lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + exif_of(5000, 60_000))),
        "image has too much meta",
    ),
    "EXIF in 900 segments": (lambda: jpeg_with(segment(0xE1, b"Exif\0\0".ljust(60_000)) * 900), "image has too much m"),
    "1 x 63,000,000": (lambda: blank_png(1, 63_000_000), "image has a side above 65535 pixels (1 x 63000000 pixels)"),
    "63,000,000 x 1": (lambda: blank_png(63_000_000, 1), "image has a side above 65535 pixels (63000000 x 1 pixels)"),
    "chunks": (lambda: png_with(chunk(b"prVt", b"") * 110_000), "image has too much metadata"),
    "WebP's canvas": (lambda: b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\x3f\0" * 2, "image exceeds max_image"),
    "no pixels": (lambda: encoded("png").replace(struct.pack(">II", 64, 48), struct.pack(">II", 0, 48)), "image "),
}
READ: dict[str, Callable[[], bytes]] = {
    "compressed text": lambda: png_with(chunk(b"zTXt", b"a\0\0" + TEXT_BOMB)),
    "international text behind the pixels": lambda: png_with(b"", chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT_BOMB)),
    "200 texts": lambda: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(MAX_TEXT_CHUNK))) * 200),
    "color profile": lambda: png_with(chunk(b"iCCP", b"a\0\0" + TEXT_BOMB)),
    "EXIF of a PNG": lambda: png_with(chunk(b"eXIf", EXIF_BOMB)),
    "EXIF as text": lambda: png_with(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 1\n" + EXIF_BOMB.hex().encode())),
    "orientations": lambda: png_with(
        chunk(b"eXIf", b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 3, 2_000_000, 0) + bytes(4_000_000))
    ),
    "APNG of 2^31 frames": lambda: png_with(chunk(b"acTL", struct.pack(">II", 1 << 31, 0))),
}


def view(content: bytes) -> np.ndarray:
    """Transform as in training, within bounds of memory (of Python's objects) and time (generous: machines differ)."""
    tracemalloc.start()
    start = time.process_time()
    try:
        return TRANSFORM(content, np.random.default_rng(0))
    finally:
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        assert time.process_time() - start < 20
        tracemalloc.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_that_costs_more_than_its_pixels_is_a_bad_sample(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(BadSampleError) as caught:
        view(make())
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize("name", READ)
def test_metadata_that_are_not_needed_are_left_out_and_the_picture_is_read(name: str) -> None:
    assert np.array_equal(view(READ[name]()), TRANSFORM(encoded("png"), np.random.default_rng(0)))


def test_a_sound_png_with_a_large_text_and_a_large_profile_is_read_and_keeps_its_orientation() -> None:
    words = PngInfo()
    words.add_itxt("XML:com.adobe.xmp", 'tiff:Orientation="3"')
    words.add_text("comment", "words " * 500_000, zip=True)
    profile = np.random.default_rng(0).bytes(2 * MAX_TEXT_CHUNK)
    content = encoded("png", pnginfo=words, icc_profile=profile)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        Image.open(io.BytesIO(content))
    turned = encoded("png", PICTURE.transpose(Image.Transpose.ROTATE_180))
    assert np.array_equal(TRANSFORM.center(content), TRANSFORM.center(turned))


def test_scans_of_encoders_are_few_and_as_many_as_allowed_are_read() -> None:
    for is_progressive in (False, True):
        view(encoded("jpeg", progressive=is_progressive))
    view(jpeg_of_scans(MAX_SCANS))
    with pytest.raises(BadSampleError, match="too many scans"):
        view(jpeg_of_scans(MAX_SCANS + 1))
    # data after the image is not a scan: phones put videos there
    view(encoded("jpeg", progressive=True) + b"\xff\xda\0\x0c" * 1000)


@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"Exif\0\0II*\0\x08\0\0\0", b""]))
def test_broken_exif_is_never_refused(content: bytes, head: bytes) -> None:
    assert is_bounded_exif(head + content)


@given(st.lists(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"prVt"])), st.binary(max_size=40))
def test_leaving_out_metadata_changes_no_pixel(names: list[bytes], content: bytes) -> None:
    lean = lean_png(png_with(b"".join(chunk(name, content) for name in names)))
    assert b"iCCP" not in lean[: lean.index(b"IDAT")]
    assert lean[lean.index(b"IDAT") :] == encoded("png")[encoded("png").index(b"IDAT") :]


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_the_size_of_a_webp_is_read_from_each_of_its_headers(options: dict[str, object]) -> None:
    for size in ((1, 1), (64, 48), (5000, 3)):
        assert webp_size(encoded("webp", Image.new("RGB", size), **options)) == size
