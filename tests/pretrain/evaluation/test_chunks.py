"""Sharing of samples among ranks: each once, equally many forwards, the same rows. CPU, milliseconds."""

import pytest
import torch

from pretrain.evaluation.chunks import Interrupted, NotFiniteError, Ranks, check_finite
from pretrain.survival.agreement import RunError
from tests.support.mistakes import only_rank


@pytest.mark.parametrize("num_samples", [1, 4, 7, 12, 33])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 9])
def test_each_sample_counts_once_and_ranks_make_equally_many_forwards(num_samples: int, world_size: int) -> None:
    chunks = [list(Ranks(rank, world_size).own_chunks(num_samples, 4)) for rank in range(world_size)]
    assert len({len(own) for own in chunks}) == 1
    counted = [place for own in chunks for places, counts in own if counts for place in places]
    assert sorted(counted) == list(range(num_samples))
    # what a chunk holds does not depend on the ranks
    assert {places for own in chunks for places, _ in own} == {
        range(start, min(start + 4, num_samples)) for start in range(0, num_samples, 4)
    }


def test_rows_lie_at_their_places() -> None:
    def compute(places: range) -> torch.Tensor:
        return torch.tensor([[place, place**2] for place in places])

    rows = Ranks().by_place(10, 4, compute, torch.device("cpu"))
    assert rows.dtype == torch.float32 and torch.equal(rows[:, 1], torch.arange(10.0) ** 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_name_their_samples(value: float) -> None:
    def compute(places: range) -> torch.Tensor:
        return torch.tensor([[0.0, value if place in (2, 7) else 1.0] for place in places])

    with pytest.raises(RunError, match=r"hold NaN or infinity for 2 of 10 samples \(dog-2, dog-7\); take weights"):
        Ranks().by_place(10, 4, compute, torch.device("cpu"), "dog-{}".format)
    with pytest.raises(NotFiniteError, match=r"for 5 of 5 samples \(0, 1, 2, ...\)"):
        check_finite(torch.full((5, 2), value), str)


def test_a_request_to_stop_interrupts_between_chunks() -> None:
    seen = []

    def compute(places: range) -> torch.Tensor:
        seen.append(places)
        return torch.zeros(len(places), 1)

    ranks = Ranks(is_asked_to_stop=lambda: len(seen) == 2)
    with only_rank(), pytest.raises(Interrupted):
        ranks.by_place(20, 4, compute, torch.device("cpu"))
    assert seen == [range(4), range(4, 8)]
