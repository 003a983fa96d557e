"""Mixup and cutmix: mixtures of two training images and of their classes.

    mixup    image = share * image + (1 - share) * partner,     share ~ Beta(alpha, alpha)
    cutmix   a box of the partner in the image,                 share = part of the image outside of the box
    target   share * one_hot(class) + (1 - share) * one_hot(class of the partner)

Samples 2k and 2k + 1 of the run are partners and have the same share, so that a mixture depends on neither rank nor
micro-batch: each part of a batch holds whole pairs. Everything is drawn on the device from seed and sample ids.

Sources: Zhang et al. (arXiv 1710.09412), Yun et al. (arXiv 1905.04899); timm's Mixup in its mode "pair", which draws
from numpy's global generator. Microsoft's recipe has one share per batch of a GPU, timm's mode "batch".
Shapes: B samples, P = B / 2 pairs, K classes, H, W sides of an image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from model.philox import Stream, below, random_words, uniform
from pretrain.config.mixing import MixingConfig


class Mixtures(NamedTuple):
    """The mixture of each pair."""

    share: Tensor
    """(P,) float32, the part of a result that is from its own image."""
    kept: Tensor
    """(P, 1, H, W) float32, the weight of each of its own pixels: 0 or 1 for cutmix, the share for mixup."""


@torch.no_grad()
def mix(
    images: Tensor, targets: Tensor, num_classes: int, config: MixingConfig, seed: int, sample_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mixed images and their soft targets, (B, K) float32.

    images: (B, 3, H, W) normalised or any other floating pixels; targets: (B,) int64; sample_ids: (B,) int64, in whole
    pairs, the even one first. If config is off, the images are returned as they are. Labels are smoothed by the loss.
    """
    soft = one_hot(targets, num_classes).float()
    if not config.is_on or not len(images):
        return images, soft
    assert len(images) % 2 == 0, "MixingConfig.check_batch was not called"
    share, kept = draw_mixtures(config, seed, sample_ids[::2], images.shape[2], images.shape[3])
    return _mixed(images, kept).to(images.dtype), _mixed(soft, share[:, None])


def draw_mixtures(config: MixingConfig, seed: int, pair_ids: Tensor, height: int, width: int) -> Mixtures:
    """Return the mixtures of pairs of images of height x width. pair_ids: (P,) int64, each pair's first sample id."""
    of_share, of_angle, of_kind, of_all = random_words(seed, Stream.MIXING, pair_ids, 0)
    is_cutmix = uniform(of_kind) < _cutmix_probability(config)
    mixup, cutmix = (
        symmetric_beta(1 - uniform(of_share), uniform(of_angle), alpha) if alpha else torch.ones_like(uniform(of_all))
        for alpha in (config.mixup, config.cutmix)
    )
    share = torch.where(uniform(of_all) < config.probability, torch.where(is_cutmix, cutmix, mixup), 1.0)
    of_row, of_column, *_ = random_words(seed, Stream.MIXING, pair_ids, 1)
    rows, columns = (
        _covered(below(word, side), (side * (1 - share).sqrt()).int(), side)
        for word, side in ((of_row, height), (of_column, width))
    )
    box = rows[:, None, :, None] & columns[:, None, None, :]  # (P, 1, H, W)
    area = box.sum((1, 2, 3)) / (height * width)  # the image's border may cut the box
    kept = torch.where(is_cutmix[:, None, None, None], (~box).float(), share[:, None, None, None])
    return Mixtures(torch.where(is_cutmix, 1 - area, share), kept)


def symmetric_beta(radius: Tensor, angle: Tensor, alpha: float) -> Tensor:
    """Return a number with the distribution Beta(alpha, alpha) for each pair of independent uniform ones.

    radius: in (0, 1]; angle: in [0, 1). Without rejection, which would need an unknown number of draws:

        t^2 / n = (radius^(-2 / n) - 1) cos^2(2 pi angle)   has Student's t distribution with n degrees of freedom,
        (1 + t / sqrt(n + t^2)) / 2                         is Beta(n / 2, n / 2)

    Source: Bailey, "Polar generation of random variates with the t-distribution" (Math. Comp. 62, 1994).
    """
    cosine = torch.cos(2 * math.pi * angle)
    squared = torch.expm1(-radius.log() / alpha) * cosine**2
    # 1 / squared, so that a square that overflows, as for small alpha, gives 0 or 1
    return (1 + cosine.sign() / (1 + 1 / squared).sqrt()) / 2


def _cutmix_probability(config: MixingConfig) -> float:
    if config.mixup and config.cutmix:
        return config.cutmix_share
    return float(config.cutmix > 0)


def _covered(center: Tensor, length: Tensor, side: int) -> Tensor:
    """Return which of `side` pixels an interval around `center` covers, (P,) -> (P, side) bool."""
    places = torch.arange(side, device=center.device)
    first, end = center - length // 2, center + (length + 1) // 2
    return (places >= first[:, None]) & (places < end[:, None])


def _mixed(values: Tensor, weight: Tensor) -> Tensor:
    """Return weight * own + (1 - weight) * partner's values; values: (B, ...), weight: (P, ...)."""
    own = values.unflatten(0, (-1, 2))  # (P, 2, ...)
    return torch.lerp(own.flip(1).float(), own.float(), weight[:, None]).flatten(0, 1)
