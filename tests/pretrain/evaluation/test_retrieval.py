"""Recall at K against values worked out by hand, with ties. CPU, milliseconds."""

import numpy as np
import pytest
import torch

from pretrain.evaluation.retrieval import NAMES, best_images, best_texts, retrieval_recall


def unit(*angles: float) -> torch.Tensor:
    """Return unit vectors at these angles, in degrees."""
    radians = torch.deg2rad(torch.tensor(angles))
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_recall_is_that_counted_by_hand() -> None:
    """Images at 0, 40, 80 degrees; texts at 5 (of image 0), 38 (of 2), 60 (of 1), 85 (of 2)."""
    images, texts, own = unit(0, 40, 80), unit(5, 38, 60.1, 85), torch.tensor([0, 2, 1, 2])
    found = retrieval_recall(images, texts, own)
    # text 38: images 40, 0, 80 by distance 2, 38, 42: its own is third; text 60.1: 80 (19.9), 40 (20.1): second
    assert found["retrieval/text_to_image_r1"] == 2 / 4
    assert found["retrieval/text_to_image_r5"] == found["retrieval/text_to_image_r10"] == 1
    # image 40: texts 38 (2), 60.1 (20.1): its own is second; images 0 and 80 find one of theirs first
    assert found["retrieval/image_to_text_r1"] == 2 / 3
    assert found["retrieval/image_to_text_r5"] == 1


def test_a_tie_is_not_a_hit() -> None:
    """Two images alike: neither is found first, both are within five; a collapsed encoder finds nothing among many."""
    found = retrieval_recall(unit(0, 0, 90), unit(0, 0, 90), torch.tensor([0, 1, 2]))
    assert found["retrieval/text_to_image_r1"] == found["retrieval/image_to_text_r1"] == 1 / 3
    assert found["retrieval/text_to_image_r5"] == 1
    alike = torch.ones(20, 4)
    assert set(retrieval_recall(alike, alike, torch.arange(20)).values()) == {0}


def test_features_that_are_not_finite_find_nothing() -> None:
    broken = torch.full((20, 4), torch.nan)
    assert set(retrieval_recall(broken, broken, torch.arange(20)).values()) == {0}


def test_images_without_texts_are_searched_but_not_asked_for() -> None:
    found = retrieval_recall(unit(0, 45, 90), unit(44, 1), torch.tensor([1, 0]))
    assert set(found.values()) == {1}
    assert retrieval_recall(unit(0, 45), unit(44), torch.tensor([0]))["retrieval/text_to_image_r1"] == 0


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, own = torch.randn(30, 8), torch.randn(50, 8), torch.randint(30, (50,))
    whole = retrieval_recall(images, texts, own)
    monkeypatch.setattr("pretrain.evaluation.retrieval.CHUNK", 7)
    assert retrieval_recall(images, texts, own) == whole and 0 < whole["retrieval/text_to_image_r10"] < 1


def brute_force(images: np.ndarray, texts: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Return the recalls by loops over lists of dot products, a tie against the sought one."""

    def share(queries: np.ndarray, candidates: np.ndarray, sought: list[set[int]], k: int) -> float:
        num_found = 0
        for query, wanted in zip(queries, sought, strict=True):
            scores = [float(np.dot(query, candidate)) for candidate in candidates]
            best = max(scores[place] for place in wanted)
            num_before = sum(score >= best for place, score in enumerate(scores) if place not in wanted)
            num_found += num_before < k
        return num_found / len(queries)

    asked = sorted(set(own.tolist()))
    texts_of = [{text for text, image in enumerate(own) if image == number} for number in asked]
    by_text = {f"retrieval/text_to_image_r{k}": share(texts, images, [{n} for n in own], k) for k in (1, 5, 10)}
    return by_text | {f"retrieval/image_to_text_r{k}": share(images[asked], texts, texts_of, k) for k in (1, 5, 10)}


def test_recall_is_that_of_a_brute_force_count_with_ties_and_copied_captions() -> None:
    """Features of small integers, so that the sums are exact; images of four kinds, captions with copies."""
    generator = np.random.default_rng(0)
    signs = np.sign(generator.normal(size=(40, 16)))  # all of one length: cosines are the sums divided by 16
    images, own = signs[generator.integers(0, 30, 37)], generator.integers(0, 37, 61)
    texts = np.where(generator.random((61, 16)) < 0.3, -images[own], images[own])
    texts[generator.integers(0, 61, 25)] = texts[generator.integers(0, 61, 25)]
    found = retrieval_recall(*(torch.tensor(part) for part in (images, texts, own)))
    assert tuple(found) == NAMES and found == brute_force(images, texts, own)
    assert 0 < found["retrieval/text_to_image_r1"] < found["retrieval/text_to_image_r10"] < 1


def test_copies_of_a_caption_tie_whatever_the_matrix_product_rounds() -> None:
    """Products of equal columns differ in the last bit; a hit must not depend on it."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(17, 48, generator=generator)[torch.arange(33) // 2]  # captions in pairs of copies
    images = texts + 0.1 * torch.randn(33, 48, generator=generator)
    found = retrieval_recall(images, texts, torch.arange(33))
    assert found["retrieval/image_to_text_r1"] == 1 / 33  # the last caption alone has no copy
    assert found["retrieval/image_to_text_r5"] == 1


def test_best_answers_are_those_that_the_recall_counts() -> None:
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(30, 4, generator=generator), torch.randn(50, 4, generator=generator)
    own = torch.cat([torch.arange(30), torch.randint(30, (20,), generator=generator)])
    recall = retrieval_recall(images, texts, own)
    by_text = best_images(images, texts, own, 5)
    by_image = best_texts(images, texts, own, torch.arange(30), 5)
    for found, name in ((by_text, "text_to_image"), (by_image, "image_to_text")):
        assert found.order.shape == found.is_right.shape == (len(found.ranks), 5)
        assert int(found.is_right.any(1).sum()) / len(found.ranks) == recall[f"retrieval/{name}_r5"]
        assert torch.equal(found.is_right.any(1), found.ranks < 5)
        assert torch.equal(found.is_right[:, 0], found.ranks == 0)
