"""Long curves as few points: nothing that a reader looks for is lost."""

import numpy as np
import pytest

from pretrain.reporting.columns import Column
from pretrain.reporting.thinning import MAX_POINTS, bounds, smoothed, thinned, usual


def column_of(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Column:
    return Column(np.arange(1, len(values) + 1), values)


def test_one_spike_in_two_hundred_thousand_steps_is_kept() -> None:
    values = np.ones(200_000)
    values[123_456], values[7] = 50.0, -3.0
    few = thinned(column_of(values))
    assert len(few) <= MAX_POINTS and (np.diff(few.steps) > 0).all()
    assert (few.values.max(), few.values.min()) == (50.0, -3.0) and 123_457 in few.steps
    assert usual(column_of(values)).tolist() == [1, 1]  # and does not stretch the axis


def test_short_curves_are_not_thinned() -> None:
    values = np.linspace(0, 1, 100)
    values[50] = np.nan
    few = thinned(column_of(values))
    assert len(few) == 99 and 51 not in few.steps


def test_the_running_mean_is_that_of_the_neighbors() -> None:
    values = np.random.default_rng(0).normal(size=300)
    mean = smoothed(column_of(values), part=0.1)
    assert len(mean) == 300
    for place in (0, 3, 150, 299):
        assert mean.values[place] == pytest.approx(values[max(0, place - 15) : place + 16].mean())
    assert len(smoothed(column_of(np.ones(100_000)))) == MAX_POINTS


def test_a_flat_curve_stays_flat() -> None:
    mean = smoothed(column_of(np.full(200_000, 61.2)))
    assert np.ptp(mean.values) == 0
    low, high = bounds([mean.values])
    assert low < 60 and high > 62


def test_an_axis_without_values_is_an_axis() -> None:
    assert bounds([]) == (0, 1) and bounds([np.array([np.nan, np.inf])]) == (0, 1)
    low, high = bounds([np.zeros(3)])
    assert low < 0 < high
