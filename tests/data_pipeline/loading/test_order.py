"""The order of samples: every pass is complete, and only seed, lane and position matter."""

import pickle
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import MIN_SAMPLES_PER_LANE, SampleOrder

GOLDEN_ORDER = [12, 25, 60, 84, 14, 31, 55, 77, 16, 36, 57, 67, 20, 39, 52, 79, 8, 41, 51, 72]


GOLDEN_DIVIDED_ORDER = [5, 18, 24, 37, 7, 11, 23, 35, 8, 11, 23, 31]


SHARD_SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=12)


@st.composite
def orders(draw: st.DrawFn) -> SampleOrder:
    sizes = draw(SHARD_SIZES)
    num_lanes = draw(st.integers(1, min(8, sum(sizes))))
    order = SampleOrder(sizes, num_lanes, draw(st.integers(1, 5)), draw(st.integers(0, 1000)))
    assume(not order.takes_turns)
    return order


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 32), st.integers(1, 3), st.integers(1, 90))
def test_no_sample_recurs_before_all_are_visited_but_for_a_sixteenth_with_many_samples_per_lane(
    sizes: list[int], num_lanes: int, window_shards: int, num_draws: int
) -> None:
    """After any number of draws per lane."""
    num_lanes = min(num_lanes, sum(sizes))
    order = SampleOrder(sizes, num_lanes, window_shards, seed=len(sizes))
    visits = Counter(order.sample(lane, position) for position in range(num_draws) for lane in range(num_lanes))
    most, fewest = max(visits.values()), min(visits[sample] for sample in range(sum(sizes)))
    if sum(sizes) % num_lanes == 0 or sum(sizes) // num_lanes < MIN_SAMPLES_PER_LANE:
        assert most - fewest <= 1
    else:
        assert most - fewest < 2 + most / MIN_SAMPLES_PER_LANE


def test_a_hundred_samples_in_sixty_four_lanes_are_all_visited_64_times_in_64_passes() -> None:
    order = SampleOrder([30, 30, 40], 64, 4, seed=0)
    visits = Counter(order.sample(lane, position) for position in range(100) for lane in range(64))
    assert set(visits.values()) == {64} and len(visits) == 100


def test_the_order_with_enough_samples_per_lane_is_that_of_earlier_versions() -> None:
    order = SampleOrder([19, 19, 19, 20, 10], 4, 4, seed=2)
    assert [order.sample(lane, position) for position in (0, 1, 20, 21, 50) for lane in range(4)] == GOLDEN_ORDER
    divided = SampleOrder([9, 9, 9, 9, 4], 4, 4, seed=1)
    assert [divided.sample(lane, position) for position in (0, 9, 10) for lane in range(4)] == GOLDEN_DIVIDED_ORDER


def test_lanes_that_take_turns_announce_the_shards_of_their_next_window() -> None:
    order = SampleOrder([1] * 50, 32, 1, seed=0)
    assert order.takes_turns
    for lane in range(32):
        windows = [order.window(lane, position) for position in range(100)]
        for position in range(50):
            pass_number, window = windows[position]
            following = (pass_number, 1) if window == 0 else (pass_number + 1, 0)
            if following in windows:
                announced = order.shards_after(lane, position)
                assert order.sample(lane, windows.index(following)) in announced


@given(orders())
def test_a_pass_of_a_lane_visits_each_of_its_samples_once_and_the_lanes_share_them_all(order: SampleOrder) -> None:
    seen = []
    for lane, (start, stop) in enumerate(zip(order.lane_starts, order.lane_starts[1:], strict=False)):
        size = stop - start
        for number in range(3):
            one_pass = [order.sample(lane, position) for position in range(number * size, (number + 1) * size)]
            assert sorted(one_pass) == list(range(start, stop))
        seen += one_pass
    assert sorted(seen) == list(range(int(order.shard_starts[-1])))


@given(orders(), st.integers(0, 10**9))
def test_any_position_can_be_asked_for_first_and_in_another_process(order: SampleOrder, position: int) -> None:
    lane = position % (len(order.lane_starts) - 1)
    copied = pickle.loads(pickle.dumps(order))
    late = [copied.sample(lane, position + i) for i in range(5)]
    assert [order.sample(lane, i) for i in range(5)] == [copied.sample(lane, i) for i in range(5)]
    assert [order.sample(lane, position + i) for i in range(5)] == late


@given(orders())
def test_a_window_holds_the_shards_that_were_announced_for_it(order: SampleOrder) -> None:
    for lane in range(len(order.lane_starts) - 1):
        size = order.lane_starts[lane + 1] - order.lane_starts[lane]
        announced: set[int] = set()
        window = order.window(lane, 0)
        for position in range(2 * size):
            if order.window(lane, position) != window:
                announced = set(order.shards_after(lane, position - 1))
                window = order.window(lane, position)
            shard = int(order.shard_starts.searchsorted(order.sample(lane, position), side="right")) - 1
            assert not announced or shard in announced


def test_the_seed_and_the_pass_change_the_order() -> None:
    def sequence(seed: int, number: int) -> list[int]:
        order = SampleOrder([7, 30, 1, 12, 25], 1, 2, seed)
        return [order.sample(0, position) for position in range(75 * number, 75 * (number + 1))]

    assert len({tuple(sequence(seed, number)) for seed in (0, 1) for number in (0, 1)}) == 4


def test_lanes_that_do_not_fit_are_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="5 lanes must divide 12 samples per step"):
        Mixture([75], [Fraction(1)], 12, 5, 0)
    with pytest.raises(AssertionError, match="75 samples cannot fill 80 lanes"):
        SampleOrder([75], 80, 1, 0)
