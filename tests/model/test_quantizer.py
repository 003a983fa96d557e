"""The codebook: k-means start, moving averages, revival. CPU, seconds."""

import pytest
import torch
from torch.nn.functional import normalize

from model.quantizer import CHUNK, Codebook


def clusters(num_clusters: int, per_cluster: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Return features in tight clusters around random directions, in random order."""
    generator = torch.Generator().manual_seed(seed)
    centers = normalize(torch.randn(num_clusters, dim, generator=generator), dim=-1)
    noise = 0.02 * torch.randn(num_clusters, per_cluster, dim, generator=generator)
    features = (centers[:, None] + noise).flatten(0, 1)
    return features[torch.randperm(len(features), generator=generator)]


def learn(book: Codebook, features: torch.Tensor, decay: float = 0.9, threshold: float = 0.1, seed: int = 0) -> None:
    """Take one step on one rank."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    fresh = features[order.repeat(-(-len(book.codes) // len(order)))[: len(book.codes)]]
    book.move(*book.assign(features), fresh, decay, threshold)


def test_codes_are_the_nearest_by_cosine() -> None:
    book, generator = Codebook(16, 8), torch.Generator().manual_seed(0)
    features = torch.randn(200, 8, generator=generator) * torch.rand(200, 1, generator=generator) * 5
    book.start(features)
    similarity = torch.nn.functional.cosine_similarity(features[:, None], book.codes[None], dim=-1)
    assert torch.equal(book(features), similarity.argmax(1))
    torch.testing.assert_close(book.codes.norm(dim=1), torch.ones(16))


def test_a_codes_length_counts_as_in_the_distance_of_the_original() -> None:
    book, generator = Codebook(16, 8), torch.Generator().manual_seed(0)
    book.codes.copy_(torch.randn(16, 8, generator=generator))  # not of length 1
    features = torch.randn(100, 8, generator=generator)
    assert torch.equal(book(features), torch.cdist(normalize(features, dim=-1), book.codes).argmin(1))


def test_more_features_than_a_chunk_are_the_same_features() -> None:
    book, generator = Codebook(4, 3), torch.Generator().manual_seed(0)
    features = torch.randn(CHUNK + 7, 3, generator=generator)
    book.start(features[:50])
    assert torch.equal(book(features)[CHUNK - 5 :], book(features[CHUNK - 5 :]))
    assert book.assign(features)[1].sum() == CHUNK + 7


def test_kmeans_and_revival_find_every_cluster() -> None:
    features, book = clusters(20, 30, 16), Codebook(40, 16)
    book.start(features)
    for step in range(60):
        learn(book, features, threshold=0.4, seed=step)
    distance = 1 - (normalize(features, dim=-1) * book.lookup(book(features))).sum(-1)
    assert distance.max() < 0.05
    assert len(book(features).unique()) > 30


@pytest.mark.parametrize("has_kmeans", [True, False])
def test_a_start_is_not_thrown_away_by_the_first_revival(has_kmeans: bool) -> None:
    features, book = clusters(32, 200, 16), Codebook(32, 16)
    if has_kmeans:
        book.start(features[: 16 * 32], num_features=len(features))
    else:
        book.start_randomly(len(features), torch.Generator().manual_seed(0))
    before = book.codes.clone()
    learn(book, features, decay=0.99)
    assert ((before * book.codes).sum(-1) > 0.9).sum() >= 30  # k-means may leave one that really has few features


def test_moving_average_of_one_code_follows_the_formula() -> None:
    book = Codebook(1, 4)
    book.start(torch.tensor([[1.0, 0, 0, 0]]))
    learn(book, torch.tensor([[0, 2.0, 0, 0], [0, 1.0, 0, 0]]), decay=0.75, threshold=0)
    torch.testing.assert_close(book.codes, normalize(torch.tensor([[0.75, 0.25, 0, 0]]), dim=-1))
    torch.testing.assert_close(book.cluster_sizes, torch.tensor([0.75 * 1 + 0.25 * 2]))


def test_dead_codes_come_back_and_without_revival_stay_dead() -> None:
    before, after = clusters(32, 8, 8, seed=0), clusters(16, 8, 8, seed=1)  # the data moves away
    live = {}
    for threshold in (0.0, 0.1):
        book = Codebook(32, 8)
        book.start(before)
        for step in range(60):
            learn(book, after, threshold=threshold, seed=step)
        live[threshold] = len(book(after).unique())
    assert live[0.1] > live[0.0]
    assert live[0.1] >= 16  # as many clusters as `after` has


def test_steps_since_a_code_was_used_are_counted() -> None:
    book = Codebook(2, 2)
    book.start(torch.eye(2))
    for _ in range(3):
        learn(book, torch.tensor([[1.0, 0.1]]), threshold=0)
    assert book.steps_unused.tolist() == [0, 3]
    learn(book, torch.eye(2), threshold=0)
    assert book.steps_unused.tolist() == [0, 0]


def test_reading_changes_nothing() -> None:
    book, generator = Codebook(8, 4), torch.Generator().manual_seed(0)
    book.start(torch.randn(50, 4, generator=generator))
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book.train()(torch.randn(10, 4))
    book.eval().assign(torch.randn(10, 4))
    assert all(torch.equal(value, book.state_dict()[name]) for name, value in before.items())


def test_too_small_a_first_step_is_refused() -> None:
    with pytest.raises(ValueError, match="7 features for 8 codes"):
        Codebook(8, 4).start(torch.randn(7, 4))
