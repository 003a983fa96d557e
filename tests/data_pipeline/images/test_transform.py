"""Cropping, decoding and augmentation of images."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from data_pipeline.images.transform import jittered, random_crop
from tests.support.encoded_images import encoded, gradient, transform


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


def test_the_center_crop_is_that_of_torchvisions_resize_and_center_crop() -> None:
    """Which resize the shorter side first: the filter then reaches beyond the square."""
    for width, height in ((96, 64), (64, 96), (64, 64)):
        image = gradient(width, height)
        side = min(image.size)
        resized = image.resize((width * 32 // side, height * 32 // side), Image.Resampling.BICUBIC)
        left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
        expected = np.asarray(resized.crop((left, top, left + 32, top + 32))).transpose(2, 0, 1)
        cropping = replace(transform(), crop_mode="center")
        for found in (cropping.center(encoded(image)), cropping.center_of(image)):
            assert np.abs(found.astype(int) - expected).max() <= 3


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


@pytest.mark.parametrize("size", [(100, 70), (330, 330), (20, 500), (1, 1), (3, 2)])
def test_resizing_is_pillows_bicubic(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(transform().center(encoded(image)).astype(int) - expected).max() <= 2


def test_jitter_is_pillows_image_enhance_in_every_order() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    pictures = [noise, noise // 3, 255 - noise // 4, np.full_like(noise, 255), np.zeros_like(noise)]
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for number in range(300):
        picture = pictures[number % len(pictures)]
        factors, order = rng.uniform(0.6, 1.4, 3), rng.permutation(3)
        enhanced = Image.fromarray(picture.transpose(1, 2, 0))
        for kind in order:
            enhanced = enhancers[kind](enhanced).enhance(float(factors[kind]))
        ours = jittered(picture, factors.astype(np.float32), order)
        assert np.abs(ours.astype(int) - np.asarray(enhanced).transpose(2, 0, 1)).max() <= 3
