"""Images of every stored format to upright RGB pixels, and files that are not usable images."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_pipeline.images.transform import ImageTransform
from data_pipeline.samples.sample import BadSampleError
from tests.support.encoded_images import encoded, gradient, transform

RED, WHITE = (255, 0, 0), (255, 255, 255)


def png(width: int, height: int, depth: int, color_type: int, rows: bytes, transparency: bytes = b"") -> bytes:
    """Return a PNG file of a type that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0))
    between = chunk(b"tRNS", transparency) if transparency else b""
    return b"\x89PNG\r\n\x1a\n" + header + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def quarters() -> Image.Image:
    """Four colors, so that no turned or mirrored copy is equal to another."""
    image = Image.new("RGB", (40, 24), (200, 30, 30))
    for color, corner in (((30, 200, 30), (20, 0)), ((30, 30, 200), (0, 12)), ((200, 200, 30), (20, 12))):
        image.paste(color, (*corner, corner[0] + 20, corner[1] + 12))
    return image


def assert_color(view: np.ndarray, color: tuple[int, int, int], tolerance: int = 0) -> None:
    assert np.abs(view.astype(int) - np.array(color).reshape(3, 1, 1)).max() <= tolerance


def test_gray_palette_and_partly_transparent_images_become_rgb_on_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert_color(transform().center(encoded(clear)), WHITE)
    assert_color(transform().center(encoded(clear, "webp", lossless=True, exact=True)), WHITE)
    assert_color(transform().center(encoded(Image.new("RGBA", (40, 40), (255, 0, 0, 128)))), (255, 127, 127), 1)
    assert_color(transform().center(encoded(Image.new("L", (40, 40), 90))), (90, 90, 90))
    assert_color(transform().center(encoded(Image.new("LA", (40, 40), (0, 255)))), (0, 0, 0))
    assert_color(transform().center(encoded(Image.new("LA", (40, 40), (0, 0)))), WHITE)
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([255, 0, 0, 10, 20, 30])
    assert_color(transform().center(encoded(palette)), (10, 20, 30))
    assert_color(transform().center(encoded(palette, transparency=bytes([255, 0]))), WHITE)
    assert_color(transform().center(encoded(palette, transparency=bytes([0, 255]))), (10, 20, 30))
    assert_color(transform().center(encoded(Image.new("RGB", (40, 40), RED), transparency=RED)), WHITE)


def test_a_color_in_place_of_alpha_is_not_mixed_into_its_neighbors() -> None:
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    half.paste((255, 255, 255, 255), (0, 0, 20, 40))
    assert_color(transform(size=8).center(encoded(half)), WHITE)


def test_16_bits_are_scaled_to_8() -> None:
    levels = np.linspace(0, 65535, 64).astype(">u2")
    expected = levels[None] / 257
    rows = b"".join(b"\0" + levels.tobytes() for _ in range(64))
    gray = transform(size=64).center(png(64, 64, 16, 0, rows))
    assert np.abs(gray - expected).max() <= 1
    rows = b"".join(b"\0" + np.repeat(levels, 3).tobytes() for _ in range(64))
    assert np.abs(transform(size=64).center(png(64, 64, 16, 2, rows)) - expected).max() <= 1
    rows = b"\0" + np.full(4, 5000, ">u2").tobytes()
    assert_color(transform().center(png(4, 4, 16, 0, rows * 4)), (19, 19, 19))
    assert_color(transform().center(png(4, 4, 16, 0, rows * 4, transparency=struct.pack(">H", 5000))), WHITE)


def test_cmyk_of_adobe_is_inverted_and_other_cmyk_is_not() -> None:
    ink = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    adobe = encoded(ink, "jpeg", quality=95)  # like Adobe's programs, Pillow writes the inverse and marks it in APP14
    assert adobe[2:4] == b"\xff\xee" and adobe[6:11] == b"Adobe"
    assert_color(transform().center(adobe), RED, 3)
    inverse = encoded(Image.new("CMYK", (40, 40), (255, 0, 0, 255)), "jpeg", quality=95)
    plain = inverse[:2] + inverse[4 + int.from_bytes(inverse[4:6]) :]
    assert_color(transform().center(plain), RED, 3)


@pytest.mark.parametrize(("form", "options"), [("png", {}), ("webp", {"lossless": True})])
def test_the_first_frame_of_an_animation_is_taken(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in (RED, (0, 255, 0), (0, 0, 255))]
    movie = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(movie)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert_color(transform().center(movie), RED)
    assert_color(transform()(movie, np.random.default_rng(0)), RED)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(form: str, orientation: int) -> None:
    stored_as = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM]
    stored_as += [Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE]
    turn = [*stored_as, Image.Transpose.ROTATE_270][orientation - 1]
    stored = quarters() if turn is None else quarters().transpose(turn)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lossless: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": 95, "subsampling": 0},
        "png": {},
        "webp": {"lossless": True},
    }
    content = encoded(stored, form, exif=exif, **lossless[form])
    expected = transform().center(encoded(quarters()))
    assert np.abs(transform().center(content).astype(int) - expected).mean() < 4
    whole = ImageTransform(32, 1, 0, False, 10_000)(content, np.random.default_rng(0))  # the largest crop of 4 : 3
    for corner in ((2, 2), (2, -3), (-3, 2), (-3, -3)):
        assert np.abs(whole[:, *corner].astype(int) - expected[:, *corner]).max() <= 12


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_make_an_image_bad(form: str) -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        assert_color(transform().center(encoded(Image.new("RGB", (40, 40), RED), form, exif=exif)), RED, 3)


PHOTO = encoded(gradient(300, 200), "jpeg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be decoded"),
        (b"not an image", "cannot be decoded"),
        (b"RIFF\0\0\0\0WAVEfmt ", "cannot be decoded"),
        (bytes(10_000), "cannot be decoded"),
        (encoded(gradient(64, 64))[:100], "cannot be decoded"),
        (PHOTO[: len(PHOTO) // 2], "cannot be decoded"),
        (PHOTO[:200], "cannot be decoded"),
        (encoded(gradient(64, 64), "webp")[:-200], "cannot be decoded"),
        (encoded(gradient(64, 64), "gif"), "neither JPEG nor PNG nor WebP"),
        (encoded(gradient(64, 64), "bmp"), "neither JPEG nor PNG nor WebP"),
        (encoded(gradient(64, 64), "tiff"), "neither JPEG nor PNG nor WebP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "neither JPEG nor PNG nor WebP"),
        (encoded(Image.new("1", (1200, 1000))), "max_image_pixels .1200 x 1000 pixels."),
        (png(60_000, 60_000, 8, 2, b""), "max_image_pixels .60000 x 60000 pixels."),
        (png(13_000, 13_000, 8, 2, b""), "max_image_pixels .13000 x 13000 pixels."),
        (PHOTO.replace(struct.pack(">HH", 200, 300), b"\xff\xff" * 2), "max_image_pixels .65535 x 65535 pixels."),
    ],
    ids="empty,words,sound,zeros,cut png,cut jpeg,jpeg header,cut webp,gif,bmp,tiff,eps,large,60000,13000,65535".split(
        ","
    ),
)
def test_bad_images_are_bad_samples_without_warnings(content: bytes, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadSampleError, match=reason):
            transform()(content, np.random.default_rng(0))
