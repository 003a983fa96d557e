"""Recall at K against values worked out by hand, with ties. CPU, milliseconds."""

import pytest
import torch

from pretrain.evaluation.retrieval import retrieval_recall


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
