"""GIF, BMP, TIFF and AVIF become JPEG when shards are written."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from data_pipeline.samples.sample import BadSampleError
from data_pipeline.shards.writer import SampleFilter, _image

COLOR = (200, 30, 30)
NEEDS_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this build of Pillow has no AVIF")


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def stored(content: bytes, max_side: int = 0) -> Image.Image:
    extension, jpeg = _image(content, SampleFilter(quality=95, max_side=max_side))
    assert extension == "jpg" and jpeg.startswith(b"\xff\xd8\xff")
    return Image.open(io.BytesIO(jpeg))


def quarters() -> Image.Image:
    """Four colors, so that no turned or mirrored copy is equal to another."""
    image = Image.new("RGB", (80, 48), COLOR)
    for color, corner in (((30, 200, 30), (40, 0)), ((30, 30, 200), (0, 24)), ((200, 200, 30), (40, 24))):
        image.paste(color, (*corner, corner[0] + 40, corner[1] + 24))
    return image


def difference(image: Image.Image, expected: Image.Image) -> float:
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean())


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("gif", {}),
        ("bmp", {}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tiff", {"compression": "jpeg", "quality": 95}),
        pytest.param("avif", {"quality": 95}, marks=NEEDS_AVIF),
    ],
)
def test_other_formats_become_jpeg_and_are_scaled_like_others(form: str, options: dict[str, Any]) -> None:
    content = encoded(quarters(), form, **options)
    assert difference(stored(content), quarters()) < 6
    assert difference(stored(content, max_side=40), quarters().resize((40, 24))) < 9


@pytest.mark.parametrize("form", ["tiff", pytest.param("avif", marks=NEEDS_AVIF)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_are_turned_upright(form: str, orientation: int) -> None:
    turns = [None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM]
    turns += [Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE]
    turn = [*turns, Image.Transpose.ROTATE_270][orientation - 1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(quarters() if turn is None else quarters().transpose(turn), form, exif=exif)
    assert difference(stored(content), quarters()) < 9
    assert difference(stored(content, max_side=40), quarters().resize((40, 24))) < 12


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.new("RGBA", (40, 24), (255, 0, 0, 0)), "gif"), (255, 255, 255)),
        (encoded(Image.new("RGBA", (40, 24), (9, 9, 9, 0)), "tiff"), (255, 255, 255)),
        (encoded(Image.new("CMYK", (40, 24), (0, 255, 255, 0)), "tiff"), (254, 0, 0)),
        (encoded(Image.fromarray(np.full((24, 40), 40_000, np.uint16)), "tiff"), (156, 156, 156)),
        (encoded(Image.new("1", (40, 24), 1), "tiff", compression="group4"), (255, 255, 255)),
    ],
    ids=["transparent GIF", "transparent TIFF", "CMYK", "16 bits", "1 bit"],
)
def test_their_pixels_become_rgb_on_white(content: bytes, expected: tuple[int, ...]) -> None:
    assert np.abs(np.array(stored(content).getpixel((20, 12))) - expected).max() <= 2


def test_of_an_animated_gif_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (40, 24), color) for color in (COLOR, (0, 255, 0), (0, 0, 255))]
    movie = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert difference(stored(movie), frames[0]) < 3


def test_a_comment_that_no_jpeg_can_hold_is_left_out() -> None:
    content = encoded(quarters(), "gif", comment=b"x" * 70_000)
    with Image.open(io.BytesIO(content)) as image:
        assert len(image.info["comment"]) == 70_000
    assert "comment" not in stored(content).info and difference(stored(content), quarters()) < 9


def test_a_side_that_no_jpeg_can_have_is_a_bad_sample() -> None:
    with pytest.raises(BadSampleError, match="image cannot be decoded"):
        _image(encoded(Image.new("1", (65_510, 1)), "bmp"), SampleFilter())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(quarters(), "gif")[:60], "image cannot be decoded"),
        (encoded(quarters(), "tiff")[:-3000], "image cannot be decoded"),
        (encoded(quarters(), "bmp")[:200], "image cannot be decoded"),
        (b"BM is a company", "image cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image cannot be decoded (none of JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF)"),
        (encoded(Image.new("F", (40, 24), 0.5), "tiff"), "image has pixels of 32 bits"),
        (
            encoded(quarters(), "bmp").replace(struct.pack("<ii", 80, 48), struct.pack("<ii", 60_000, 60_000)),
            "image exc",
        ),
        (
            b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + struct.pack("<HHII", 700, 7, 60_000, 0) * 5000,
            "image has too much metadata",
        ),
    ],
    ids=["cut GIF", "cut TIFF", "cut BMP", "no BMP", "EPS", "floating-point", "60,000 x 60,000", "TIFF of entries"],
)
def test_an_image_that_cannot_be_converted_is_a_bad_sample(content: bytes, reason: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        _image(content, SampleFilter())
    assert str(caught.value).startswith(reason)
