"""Mixup and cutmix against loops and timm's targets, their distributions, and parts of a batch. CPU, seconds."""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.task_losses import class_losses
from pretrain.config.mixing import MixingConfig
from pretrain.jobs.mixing import draw_mixtures, mix, symmetric_beta
from tests.support.beside_cpu_torch import import_beside_cpu_torch

BOTH = MixingConfig(mixup=0.8, cutmix=1.0)
NUM_CLASSES, SIDE = 5, 8


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, targets and sample ids."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE + 4, generator=generator)
    return images, torch.randint(NUM_CLASSES, (count,), generator=generator), torch.arange(1000, 1000 + count)


@pytest.mark.parametrize("config", [BOTH, MixingConfig(mixup=0.8), MixingConfig(cutmix=0.5)])
def test_images_and_targets_equal_a_loop_over_pairs(config: MixingConfig) -> None:
    timm = import_beside_cpu_torch("timm.data.mixup")
    images, targets, ids = batch(32)
    mixed, soft = mix(images, targets, NUM_CLASSES, config, 3, ids)
    logits = torch.randn(32, NUM_CLASSES, generator=torch.Generator().manual_seed(1))
    losses = class_losses(logits, soft, smoothing=0.1)
    share, kept = draw_mixtures(config, 3, ids[::2], SIDE, SIDE + 4)
    num_boxes = 0
    for pair in range(16):
        one, other = images[2 * pair], images[2 * pair + 1]
        is_box = set(kept[pair].unique().tolist()) == {0, 1}
        num_boxes += is_box
        for place, (own, partner) in enumerate([(one, other), (other, one)]):
            expected = torch.where(kept[pair].bool(), own, partner) if is_box else share[pair] * own
            expected = expected if is_box else expected + (1 - share[pair]) * partner
            torch.testing.assert_close(mixed[2 * pair + place], expected)
        if is_box:
            torch.testing.assert_close(share[pair], kept[pair].mean())
        rows = slice(2 * pair, 2 * pair + 2)
        theirs = timm.mixup_target(targets[rows], NUM_CLASSES, share[pair], smoothing=0.1)
        torch.testing.assert_close(losses[rows], -(theirs * logits[rows].log_softmax(1)).sum(1))
    # a box may be empty, or cover the whole image
    assert {(True, True): 4 < num_boxes < 12, (True, False): num_boxes == 0, (False, True): num_boxes > 12}[
        (config.mixup > 0, config.cutmix > 0)
    ]


def test_a_mixture_does_not_depend_on_ranks_and_micro_batches() -> None:
    images, targets, ids = batch(24)
    whole = mix(images, targets, NUM_CLASSES, BOTH, 0, ids)
    for size in (2, 4, 12):
        parts = [
            mix(images[part], targets[part], NUM_CLASSES, BOTH, 0, ids[part])
            for part in (slice(start, start + size) for start in range(0, 24, size))
        ]
        for together, found in zip(whole, zip(*parts, strict=True), strict=True):
            assert (torch.cat(found) == together).all()
    for seed, shift in ((1, 0), (0, 24)):
        assert (mix(images, targets, NUM_CLASSES, BOTH, seed, ids + shift)[0] != whole[0]).any()


@pytest.mark.parametrize("alpha", [0.05, 0.5, 0.8, 1.0, 4.0])
def test_shares_have_a_beta_distribution(alpha: float) -> None:
    count = 40_000
    generator = torch.Generator().manual_seed(0)
    radius, angle = 1 - torch.rand(count, generator=generator), torch.rand(count, generator=generator)
    # rounded: 1e-12 is 0 in float32, next to 1
    ours = np.sort(symmetric_beta(radius, angle, alpha).double().numpy().round(6))
    theirs = np.sort(np.random.default_rng(0).beta(alpha, alpha, count).round(6))
    # the Kolmogorov-Smirnov statistic of two samples; 1.63 sqrt(2 / n) is exceeded in one of a hundred
    both = np.concatenate([ours, theirs])
    distance = np.abs(np.searchsorted(ours, both, "right") - np.searchsorted(theirs, both, "right")).max() / count
    assert np.isfinite(ours).all() and 0 <= ours[0] and ours[-1] <= 1
    assert distance < 1.63 * (2 / count) ** 0.5


def test_boxes_are_drawn_as_timm_draws_them() -> None:
    timm = import_beside_cpu_torch("timm.data.mixup")
    ids = torch.arange(4000)
    ours = draw_mixtures(MixingConfig(cutmix=1.0), 0, ids, 30, 20).kept[:, 0]
    np.random.seed(0)
    theirs = torch.ones_like(ours)
    for box, share in zip(theirs, np.random.beta(1, 1, 4000), strict=True):
        top, bottom, left, right = timm.rand_bbox((3, 30, 20), share)
        box[top:bottom, left:right] = 0
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 0.04  # how often each pixel is kept, about 0.6
    assert (ours.mean((1, 2)).sort().values - theirs.mean((1, 2)).sort().values).abs().max() < 0.05
    is_kept = ours.bool()
    assert is_kept.all(2).any(1).float().mean() > 0.9  # a box is seldom as high as the image


def test_probabilities_are_kept() -> None:
    ids = torch.arange(4000)
    config = MixingConfig(mixup=1.0, cutmix=1.0, probability=0.5, cutmix_share=0.25)
    share, kept = draw_mixtures(config, 0, ids, 16, 16)
    is_mixed, is_box = share < 1, kept.amin((1, 2, 3)) == 0
    assert abs(is_mixed.float().mean() - 0.5) < 0.05
    assert abs(is_box.sum() / is_mixed.sum() - 0.25) < 0.05


def test_without_mixing_images_stay_as_they_are() -> None:
    images, targets, ids = batch(3)
    same, soft = mix(images, targets, NUM_CLASSES, MixingConfig(), 0, ids)
    assert same is images
    assert (soft == torch.zeros(3, NUM_CLASSES).scatter_(1, targets[:, None], 1)).all()


def test_half_precision_is_kept_and_no_value_is_read_from_the_device() -> None:
    images, targets, ids = batch(4)
    mixed, soft = mix(images.bfloat16(), targets, NUM_CLASSES, BOTH, 0, ids)
    assert mixed.dtype == torch.bfloat16 and soft.dtype == torch.float32
    meta = [tensor.to("meta") for tensor in (images, targets, ids)]
    assert mix(meta[0], meta[1], NUM_CLASSES, BOTH, 0, meta[2])[0].shape == images.shape
