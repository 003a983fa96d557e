"""Cropping, decoding and augmentation of images."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipeline.image_transform import ImageTransform, random_crop
from data_pipeline.samples import BadSampleError


def transform(size: int = 32, jitter: float = 0.0, flip: bool = False, scale: float = 1.0) -> ImageTransform:
    return ImageTransform(size, scale, jitter, flip, max_pixels=1_000_000)


def encoded(image: Image.Image, form: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(("width", "height"), [(100, 100), (300, 80), (50, 400), (1, 1), (3, 2)])
def test_crops_lie_inside_and_keep_scale_and_aspect(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = random_crop(width, height, 0.2, rng)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        if min(width, height) >= 50:
            assert 0.7 < (right - left) / (bottom - top) < 1.4
    if width == height == 100:
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (random_crop(100, 100, 0.2, rng) for _ in range(2000))]
        assert 1900 < min(areas) < 2600 and 9000 < max(areas) <= 10_000


def test_the_whole_image_is_scaled_and_reduced_decoding_agrees() -> None:
    image = gradient(640, 480)
    whole = transform().center(encoded(image))
    assert whole.shape == (3, 32, 32) and whole.dtype == np.uint8
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(whole.astype(int) - expected).max() <= 1
    jpeg = encoded(image, "jpeg")
    full_decode = np.asarray(Image.open(io.BytesIO(jpeg)).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(transform().center(jpeg).astype(int) - full_decode).max() <= 6


def test_augmentation_follows_from_the_generator() -> None:
    png, augment = encoded(gradient(90, 70)), transform(jitter=0.4, flip=True, scale=0.3)
    views = [augment(png, np.random.default_rng(seed)).tobytes() for seed in (0, 0, 1, 2, 3)]
    assert views[0] == views[1] and len(set(views)) == 4


def test_flip_and_jitter_can_be_switched_off() -> None:
    png = encoded(gradient(64, 64))
    means = {False: set(), True: set()}  # type: dict[bool, set[bool]]
    for flip in (False, True):
        for seed in range(30):
            view = transform(flip=flip)(png, np.random.default_rng(seed)).astype(int)
            means[flip].add(bool(view[0, :, 0].mean() < view[0, :, -1].mean()))
    assert means == {False: {True}, True: {True, False}}
    flat = encoded(Image.new("RGB", (64, 64), (100, 150, 200)))
    plain = transform()(flat, np.random.default_rng(0))
    assert (plain == np.array([100, 150, 200]).reshape(3, 1, 1)).all()
    assert (transform(jitter=0.4)(flat, np.random.default_rng(0)) != plain).any()


def test_transparent_gray_and_palette_images_become_rgb_on_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert (transform().center(encoded(clear)) == 255).all()
    assert (transform().center(encoded(Image.new("L", (40, 40), 90))) == 90).all()
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([10, 20, 30])
    assert (transform().center(encoded(palette)) == np.array([10, 20, 30]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be decoded"),
        (b"not an image", "cannot be decoded"),
        (encoded(gradient(64, 64))[:100], "cannot be decoded"),
        (encoded(Image.new("1", (1200, 1000))), "1200 x 1000 pixels exceed max_image_pixels"),
    ],
    ids=["empty", "no image", "truncated", "too large"],
)
def test_bad_images_are_bad_samples(content: bytes, reason: str) -> None:
    with pytest.raises(BadSampleError, match=reason):
        transform()(content, np.random.default_rng(0))
