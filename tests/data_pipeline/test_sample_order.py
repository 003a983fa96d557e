"""The order of samples: every pass complete, nothing but (seed, step, place) behind it."""

import pickle
from collections import Counter

import pytest

from data_pipeline.sample_order import SampleOrder

SHARDS = [7, 30, 1, 12, 25]  # 75 samples


def order(per_step: int = 12, lanes: int = 4, window: int = 2, seed: int = 0) -> SampleOrder:
    return SampleOrder(SHARDS, per_step, lanes, window, seed)


@pytest.mark.parametrize(("per_step", "lanes", "window"), [(12, 4, 2), (5, 5, 1), (6, 1, 3), (8, 8, 100)])
def test_a_pass_of_a_lane_visits_each_of_its_samples_once(per_step: int, lanes: int, window: int) -> None:
    samples = order(per_step, lanes, window)
    per_lane = per_step // lanes
    seen_by_any_lane = []
    for lane in range(lanes):
        size = samples.lane_starts[lane + 1] - samples.lane_starts[lane]
        sequence = [
            samples.sample(step, lane * per_lane + offset) for step in range(3 * size) for offset in range(per_lane)
        ]
        for number in range(3):
            one_pass = sequence[number * size : (number + 1) * size]
            assert len(set(one_pass)) == size
        assert sequence[:size] != sequence[size : 2 * size] or size < 4
        seen_by_any_lane += sequence[:size]
    assert sorted(seen_by_any_lane) == list(range(sum(SHARDS)))


def test_over_a_long_run_all_samples_are_seen_equally_often() -> None:
    samples = order()
    counts = Counter(samples.sample(step, place) for step in range(250) for place in range(12))
    assert set(counts) == set(range(75))
    assert max(counts.values()) - min(counts.values()) <= 3


def test_any_step_can_be_asked_for_first_and_in_another_process() -> None:
    samples, fresh = order(), order()
    late = [fresh.sample(100_000, place) for place in range(12)]
    copied = pickle.loads(pickle.dumps(samples))
    for step in range(50):
        assert [samples.sample(step, p) for p in range(12)] == [copied.sample(step, p) for p in range(12)]
    assert [samples.sample(100_000, place) for place in range(12)] == late


def test_the_seed_changes_the_order() -> None:
    sequences = [[order(seed=seed).sample(step, 0) for step in range(10)] for seed in (0, 1)]
    assert sequences[0] != sequences[1]


def test_lanes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="num_lanes 5 must divide the 12 samples a step"):
        order(per_step=12, lanes=5)
    with pytest.raises(ValueError, match="75 samples cannot fill 80 lanes"):
        order(per_step=80, lanes=80)
