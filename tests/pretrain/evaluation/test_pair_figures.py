"""The contrastive loss of held-out pairs against its formula. CPU, milliseconds."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from pretrain.evaluation.pair_figures import contrastive_loss

NO_BIAS = torch.tensor(torch.nan)


def features(num_pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    return normalize(torch.randn(num_pairs, 8), dim=1), normalize(torch.randn(num_pairs, 8), dim=1)


def test_the_loss_is_the_mean_of_both_directions() -> None:
    images, texts = features(30)
    scale = torch.tensor(2.5)
    logits = scale.exp() * images @ texts.T
    own = torch.arange(30)
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert contrastive_loss(images, texts, scale, NO_BIAS) == pytest.approx(expected.item(), abs=1e-5)


def test_with_a_bias_the_loss_is_that_of_siglip() -> None:
    images, texts = features(30)
    scale, bias = torch.tensor(2.0), torch.tensor(-3.0)
    logits = scale.exp() * images @ texts.T + bias
    signs = 2 * torch.eye(30) - 1
    expected = -logsigmoid(signs * logits).sum() / 30
    assert contrastive_loss(images, texts, scale, bias) == pytest.approx(expected.item(), abs=1e-5)


def test_a_network_that_tells_nothing_apart_is_at_the_logarithm_of_the_pairs() -> None:
    alike = normalize(torch.ones(50, 8), dim=1)
    assert contrastive_loss(alike, alike, torch.tensor(1.0), NO_BIAS) == pytest.approx(math.log(50), abs=1e-9)
