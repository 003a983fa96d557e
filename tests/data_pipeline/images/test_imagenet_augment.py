"""ImageNet's operations against timm's, and erased boxes. Seconds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.images.imagenet_augment import (
    DEVIATION,
    FILL,
    IMAGENET_OPERATIONS,
    IMAGENET_POLICY,
    MEAN,
    ImageNetAugment,
    erased,
)
from data_pipeline.images.rand_augment import RandAugment
from data_pipeline.images.transform import ImageTransform
from tests.support.beside_cpu_torch import import_beside_cpu_torch
from tests.support.encoded_images import encoded, gradient

HPARAMS = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}


def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(20, 230, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("magnitude", [9.0, 6.3, 10.0, 0.0])
def test_operations_are_timms_in_both_directions(magnitude: float) -> None:
    timm = import_beside_cpu_torch("timm.data.auto_augment")
    assert list(IMAGENET_OPERATIONS) == timm._RAND_INCREASING_TRANSFORMS
    for name, operation in IMAGENET_OPERATIONS.items():
        theirs = timm.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=HPARAMS)
        found = {operation(picture(), magnitude / 10, direction).tobytes() for direction in (1, -1)}
        if name == "PosterizeIncreasing" and magnitude == 10:
            assert set().union(*found) == {0}  # what timm gave with a Pillow before 13, where it raises an error
            continue
        assert {theirs(picture()).tobytes() for _ in range(30)} == found, name


def test_the_policy_is_timms_of_that_name() -> None:
    timm = import_beside_cpu_torch("timm.data.auto_augment")
    theirs = timm.rand_augment_transform("rand-m9-mstd0.5-inc1", HPARAMS)
    assert (theirs.num_layers, len(theirs.ops)) == (IMAGENET_POLICY.num_ops, len(IMAGENET_POLICY.operations))
    assert {(op.magnitude, op.magnitude_std, op.prob) for op in theirs.ops} == {
        (IMAGENET_POLICY.magnitude, IMAGENET_POLICY.deviation, 0.5)
    }


def test_strengths_are_normal_and_cut() -> None:
    strengths: list[float] = []

    def record(image: Image.Image, strength: float, _: int) -> Image.Image:
        strengths.append(strength)
        return image

    view = np.zeros((3, 4, 4), np.uint8)
    for seed in range(600):
        RandAugment(2, 9, 0.5, {"record": record})(view, np.random.default_rng(seed))
    assert 540 < len(strengths) < 660 and max(strengths) == 1  # beyond two deviations it is cut
    assert abs(np.mean(strengths) - 0.9) < 0.01 and abs(np.std(strengths) - 0.05) < 0.005


def box_of(changed: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(changed.any((0, 2))), np.flatnonzero(changed.any((0, 1)))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def test_a_box_of_the_published_size_is_replaced_by_noise_of_imagenets_colors() -> None:
    view = np.full((3, 60, 80), 255, np.uint8)
    areas, aspects, levels = [], [], []
    for seed in range(300):
        result = erased(view, np.random.default_rng(seed))
        rows, columns = box_of(result != view)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        box = result[:, rows, columns]
        areas.append(height * width / 4800)
        aspects.append(height / width)
        levels.append(np.median(box, axis=(1, 2)) / 255)
        if seed == 0:
            assert np.abs(box.std((1, 2)) / 255 - DEVIATION).max() < 0.04
        result[:, rows, columns] = 255
        assert (result == view).all()
    assert 0.015 < min(areas) < 0.03 and 0.25 < max(areas) < 0.35 and abs(np.mean(areas) - 0.17) < 0.03
    assert 0.25 < min(aspects) < 0.45 and 2.2 < max(aspects) < 3.6
    assert np.abs(np.mean(levels, axis=0) - MEAN).max() < 0.01


def test_it_follows_from_the_generator_and_erases_a_quarter_of_views() -> None:
    png = encoded(gradient(90, 70))
    augment = ImageTransform(32, 0.08, 0.0, True, 10**6, ImageNetAugment())
    views = [augment(png, np.random.default_rng(seed)).tobytes() for seed in (0, 0, *range(1, 12))]
    assert views[0] == views[1] and len(set(views)) > 10
    without = ImageTransform(32, 0.08, 0.0, True, 10**6, ImageNetAugment(erase_probability=0))
    differing = sum(
        bool((augment(png, np.random.default_rng(seed)) != without(png, np.random.default_rng(seed))).any())
        for seed in range(400)
    )
    assert 70 < differing < 130
