"""Scores, and the words that are left out of a step, on one rank; on several: test_finetuning.py. CPU, no time."""

import pytest
import torch

from pretrain.jobs import task_steps as module
from pretrain.jobs.task_steps import kept_words, score_of_likeliest


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr(module, "gathered_from_ranks", lambda values: values)
    monkeypatch.setattr(module, "summed_over_hosts", lambda values: values)


def test_the_worst_fifth_is_left_out(one_rank: None) -> None:
    losses = torch.tensor([3.0, 0.5, 9.0, 1.0, 2.0, 8.0, 0.1, 0.2, 4.0, 5.0])
    kept, count = kept_words(losses, 0.2)
    assert count == 8 and kept.tolist() == [1, 1, 0, 1, 1, 0, 1, 1, 1, 1]


def test_words_of_several_ranks_are_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    monkeypatch.setattr(module, "summed_over_hosts", lambda values: [values[0], len(other)])
    monkeypatch.setattr(module, "gathered_from_ranks", lambda values: torch.cat([values, other[None]]))
    kept, count = kept_words(own, 0.5)
    assert count == 2 and kept.tolist() == [1, 1]
    kept, count = kept_words(torch.tensor([6.0, 2.0]), 0.5)
    assert count == 2 and kept.tolist() == [0, 1]


def test_a_single_word_divides_by_one(one_rank: None) -> None:
    assert kept_words(torch.tensor([2.0]), 0.2)[1] == 1


def test_the_likeliest_label_has_its_score_or_is_right() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 0.0]])
    assert score_of_likeliest(logits, torch.tensor([[0.0, 0.3, 1.0], [0.9, 0.0, 0.0]])).tolist() == pytest.approx(
        [0.3, 0.9]
    )
    assert score_of_likeliest(logits, torch.tensor([1, 2])).tolist() == [1, 0]
