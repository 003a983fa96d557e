"""RandAugment's operations against their published definitions, and its draws."""

import math
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.images.rand_augment import GRAY, OPERATIONS, RandAugment
from data_pipeline.images.transform import ImageTransform
from tests.support.encoded_images import encoded, gradient

STRENGTH = 0.7
Pixels = NDArray[np.float64]


def picture(seed: int = 0) -> Image.Image:
    """Return smooth noise that uses neither the darkest nor the brightest levels."""
    noise = np.random.default_rng(seed).integers(40, 200, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


def applied(name: str, image: Image.Image, direction: int = 1) -> Pixels:
    return np.asarray(OPERATIONS[name](image, STRENGTH, direction)).astype(float)


def autocontrast_of(channel: Pixels) -> Pixels:
    scale = 255 / (channel.max() - channel.min())
    return np.clip(channel * scale - channel.min() * scale, 0, 255).astype(np.uint8).astype(float)


def equalized(channel: Pixels) -> Pixels:
    counts = np.bincount(channel.astype(int).ravel(), minlength=256)
    step = counts[counts > 0][:-1].sum() // 255
    before = np.concatenate([[step // 2], counts[:-1]]).cumsum()
    table = np.clip(before // step, 0, 255)
    return table[channel.astype(int)].astype(float)


@pytest.mark.parametrize(("name", "expected"), [("AutoContrast", autocontrast_of), ("Equalize", equalized)])
def test_operations_on_channels_are_microsofts_tables(name: str, expected: object) -> None:
    assert callable(expected)
    pixels = np.asarray(picture()).astype(float)
    channels = [expected(pixels[..., channel]) for channel in range(3)]
    assert np.abs(applied(name, picture()) - np.stack(channels, axis=-1)).max() <= 1
    assert np.abs(applied(name, picture()) - pixels).max() > 20


def test_brightness_and_sharpness_are_raised_by_the_published_factor() -> None:
    pixels = np.asarray(picture()).astype(float)
    assert np.abs(applied("Brightness", picture()) - np.clip(1.36 * pixels, 0, 255)).max() <= 1
    around = sum(np.roll(pixels, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1))
    smooth = (around + 4 * pixels) / 13
    expected = np.clip(smooth + 1.36 * (pixels - smooth), 0, 255)
    assert np.abs(applied("Sharpness", picture()) - expected)[1:-1, 1:-1].max() <= 2


def moved(pixels: Pixels, matrix: Pixels, offset: Pixels) -> Pixels:
    """Return bilinear samples at matrix @ (x, y) + offset; NaN outside of the image and at its outermost pixels."""
    height, width, _ = pixels.shape
    y, x = np.mgrid[:height, :width]
    x, y = np.tensordot(matrix, np.stack([x, y]), 1) + offset[:, None, None]
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    is_inside = (left >= 1) & (top >= 1) & (left < width - 2) & (top < height - 2)
    left, top = left.clip(0, width - 2), top.clip(0, height - 2)
    right_part, lower_part = (x - left)[..., None], (y - top)[..., None]
    upper = pixels[top, left] * (1 - right_part) + pixels[top, left + 1] * right_part
    lower = pixels[top + 1, left] * (1 - right_part) + pixels[top + 1, left + 1] * right_part
    return np.where(is_inside[..., None], upper * (1 - lower_part) + lower * lower_part, np.nan)


ANGLE = math.radians(21)
CENTER = np.array([47 / 2, 39 / 2])
SHEARED = {"ShearX": [[1, -0.21], [0, 1]], "ShearY": [[1, 0], [-0.21, 1]]}
SHIFTED = {"TranslateX": [-7, 0], "TranslateY": [0, -7]}
TURN = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", [*SHEARED, *SHIFTED, "Rotate"])
def test_pixels_are_moved_as_published_and_gray_comes_in(name: str, direction: int) -> None:
    pixels = np.asarray(picture()).astype(float)
    if name in SHEARED:
        matrix = np.eye(2) + direction * (np.array(SHEARED[name]) - np.eye(2))
        offset = (matrix - np.eye(2)) @ [0.5, 0.5]  # the corner of the image stays, not the middle of its first pixel
    elif name in SHIFTED:
        matrix, offset = np.eye(2), direction * np.array(SHIFTED[name], float)
    else:
        matrix = TURN if direction == 1 else TURN.T
        offset = CENTER - matrix @ CENTER
    expected, found = moved(pixels, matrix, offset), applied(name, picture(), direction)
    is_known = ~np.isnan(expected)
    assert is_known.mean() > 0.4
    assert np.abs(found - expected)[is_known].max() <= 2
    assert (found == GRAY).all(-1).mean() > 0.02


def test_draws_follow_from_the_generator_and_operations_are_equally_likely() -> None:
    view = np.asarray(picture()).transpose(2, 0, 1)
    original = view.copy()
    augment = RandAugment(num_ops=1)
    # of one operation, the result says which it was and in which direction
    names = {applied(name, picture(), sign).tobytes(): name for name in OPERATIONS for sign in (1, -1)}
    rng, found = np.random.default_rng(0), Counter[str]()
    for _ in range(2000):
        found[names[augment(view, rng).transpose(1, 2, 0).astype(float).tobytes()]] += 1
    assert (view == original).all()
    assert 1000 < found.pop("Identity") < 1200  # half of the time nothing is applied, and a tenth of the rest is this
    assert set(found) == set(OPERATIONS) - {"Identity"} and 60 < min(found.values()) <= max(found.values()) < 145
    twice = [RandAugment()(view, np.random.default_rng(seed)).tobytes() for seed in (3, 3, *range(4, 20))]
    assert twice[0] == twice[1] and len(set(twice)) > 8


def test_a_transform_applies_it_after_the_same_crop() -> None:
    png = encoded(gradient(90, 70))
    plain = ImageTransform(32, 0.5, 0.0, True, 10**6)
    augmenting = ImageTransform(32, 0.5, 0.0, True, 10**6, RandAugment())
    is_equal = [
        bool((plain(png, np.random.default_rng(seed)) == augmenting(png, np.random.default_rng(seed))).all())
        for seed in range(40)
    ]
    assert 4 < sum(is_equal) < 24  # both operations are left out a quarter of the time, some others change nothing
    view = augmenting(png, np.random.default_rng(0))
    assert view.shape == (3, 32, 32) and view.dtype == np.uint8
    assert (augmenting.center(png) == plain.center(png)).all()


@pytest.mark.parametrize(("num_ops", "magnitude", "deviation"), [(-1, 7, 0), (2, 11, 0), (2, -1, 0), (2, 7, -1)])
def test_settings_out_of_range_are_named(num_ops: int, magnitude: int, deviation: int) -> None:
    message = f"{num_ops} operations of magnitude {magnitude} and deviation {deviation}: the magnitude must be from 0"
    with pytest.raises(ValueError, match=message):
        RandAugment(num_ops, magnitude, deviation)
