"""k-NN against votes counted by hand, the probe against scikit-free least squares and chance. CPU, seconds."""

import math

import pytest
import torch

from pretrain.evaluation.features import TEMPERATURE, knn_accuracy, probe_accuracy


def test_neighbors_vote_with_their_similarity() -> None:
    """One near neighbor outweighs two of the other class that are far enough; with equal votes the first class wins."""
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    labels = torch.tensor([1, 0, 0])
    near = torch.tensor([[0.8, 0.6]])  # cosines 0.8 and 0.6: votes exp(0.2 / 0.07) = 17 to 2
    assert math.exp(0.2 / TEMPERATURE) > 2
    assert knn_accuracy(features, labels, near, torch.tensor([1]), 3) == 1
    assert knn_accuracy(features, labels, torch.tensor([[0.71, 0.70]]), torch.tensor([0]), 3) == 1
    tie = torch.tensor([[1.0, 1.0]])
    assert knn_accuracy(features[:2], labels[:2], tie, torch.tensor([0]), 2) == 1
    assert knn_accuracy(features, labels, 100 * near, torch.tensor([1]), 1) == 1


def test_tested_images_are_compared_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    tested, expected = torch.randn(10, 4, generator=generator), labels[:10]
    whole = knn_accuracy(features, labels, tested, expected, 5)
    monkeypatch.setattr("pretrain.evaluation.features.CHUNK", 3)
    assert 0 < whole < 1 and knn_accuracy(features, labels, tested, expected, 5) == whole


def test_the_probe_separates_what_is_linear_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator) * torch.tensor([1.0, 1, 1, 1, 1e4, 0])  # scales do not matter
    y = (x[:, 0] + 2 * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    assert probe_accuracy(x[:300], y[:300], x[300:], y[300:]) > 0.8
    noise = torch.randint(4, (400,), generator=generator)
    assert probe_accuracy(x[:300], noise[:300], x[300:], noise[300:]) < 0.4


def test_features_that_are_not_finite_have_no_accuracy() -> None:
    x, y = torch.full((8, 2), torch.inf), torch.arange(8) % 2
    assert math.isnan(knn_accuracy(x, y, x, y)) and math.isnan(probe_accuracy(x, y, x, y))


@pytest.mark.parametrize("accuracy", [knn_accuracy, probe_accuracy])
def test_more_features_than_images_are_no_obstacle(accuracy: object) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 100, generator=generator), torch.arange(20) % 2
    x[:, 0] += 40 * (y - 0.5)
    assert callable(accuracy) and accuracy(x[:10], y[:10], x[10:], y[10:]) > 0.5
