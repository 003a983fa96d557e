"""The codebook: k-means start, moving averages, revival. CPU, seconds."""

import pytest
import torch
from torch.nn.functional import normalize

from model.quantizer import Codebook


def clusters(num_clusters: int, per_cluster: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Features in tight bundles around random directions."""
    generator = torch.Generator().manual_seed(seed)
    centers = normalize(torch.randn(num_clusters, dim, generator=generator), dim=-1)
    noise = 0.02 * torch.randn(num_clusters, per_cluster, dim, generator=generator)
    return (centers[:, None] + noise).flatten(0, 1)


def codebook(num_codes: int, dim: int, decay: float = 0.9, threshold: float = 0.1) -> tuple[Codebook, torch.Generator]:
    return Codebook(num_codes, dim, decay, threshold), torch.Generator().manual_seed(0)


def test_codes_are_the_nearest_by_cosine() -> None:
    book, generator = codebook(16, 8)
    features = torch.randn(200, 8, generator=generator) * torch.rand(200, 1) * 5
    book.update(features, generator)
    similarity = torch.nn.functional.cosine_similarity(features[:, None], book.codes[None], dim=-1)
    assert torch.equal(book(features), similarity.argmax(1))
    torch.testing.assert_close(book.codes.norm(dim=1), torch.ones(16))


def test_kmeans_and_revival_find_every_cluster() -> None:
    features = clusters(20, 30, 8)
    book, generator = codebook(40, 8)
    for _ in range(40):
        book.update(features, generator)
    distance = 1 - (normalize(features, dim=-1) * book.lookup(book(features))).sum(-1)
    assert distance.max() < 0.05
    assert len(book(features).unique()) > 30


def test_moving_average_of_one_code_follows_the_formula() -> None:
    book, generator = codebook(1, 4, decay=0.75, threshold=0)
    first, second = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 2.0, 0, 0]])
    book.update(first, generator)
    torch.testing.assert_close(book.codes, first)
    book.update(second, generator)
    torch.testing.assert_close(book.codes, normalize(torch.tensor([[0.75, 0.25, 0, 0]]), dim=-1))


def test_dead_codes_come_back_and_without_revival_stay_dead() -> None:
    before, after = clusters(32, 8, 8, seed=0), clusters(32, 8, 8, seed=1)[:128]  # the data moves away
    live = {}
    for threshold in (0.0, 0.1):
        book, generator = codebook(32, 8, threshold=threshold)
        book.update(before, generator)
        for _ in range(60):
            book.update(after, generator)
        live[threshold] = len(book(after).unique())
    assert live[0.1] > live[0.0]
    assert live[0.1] >= 16  # as many clusters as `after` has


def test_reading_changes_nothing() -> None:
    book, generator = codebook(8, 4)
    book.update(torch.randn(50, 4, generator=generator), generator)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book.train()(torch.randn(10, 4))
    assert all(torch.equal(value, book.state_dict()[name]) for name, value in before.items())


def test_too_small_a_first_batch_is_refused() -> None:
    book, generator = codebook(8, 4)
    with pytest.raises(ValueError, match="7 features for 8 codes"):
        book.update(torch.randn(7, 4), generator)
