"""Axes and numbers of charts."""

import numpy as np
import pytest

from pretrain.reporting.charts import Chart, Line, short, ticks
from pretrain.reporting.columns import Column


@pytest.mark.parametrize("low", [0.0, -3.7, 2.5, 1e-6, 123_456.0])
@pytest.mark.parametrize("span", [1e-7, 0.3, 1.0, 7.0, 9.99, 2000.0, 3e6])
def test_ticks_are_few_round_even_and_within_the_axis(low: float, span: float) -> None:
    found = ticks(low, low + span, 5)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_an_axis_without_length_has_no_ticks() -> None:
    assert ticks(1, 1, 5) == [] and ticks(0, float("nan"), 5) == [] and ticks(0, float("inf"), 5) == []


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "", "0"), (3.14159, "", "3.14"), (1234, "", "1234"), (12_500, "", "12.5k"), (1.8e6, "", "1.8M"),
        (5e-4, "", "5e-4"), (0.001, "", "0.001"), (-2.5, "", "-2.5"), (0.5, "%", "50 %"), (0.0213, "%", "2.13 %"),
        (float("nan"), "", "none"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, unit: str, text: str) -> None:
    assert short(value, unit) == text


def test_a_chart_says_in_words_what_it_shows() -> None:
    lines = [
        Line("single steps", Column(np.array([1, 2]), np.array([9.0, 8.0])), style="faint"),
        Line("running mean", Column(np.array([1, 700]), np.array([6.0, 3.1]))),
    ]
    assert Chart("mim", lines).summary == "mim: running mean from 6 at step 1 to 3.1 at step 700"
    assert Chart("mim", []).summary == "mim: nothing" and Chart("mim", []).is_empty
    assert Chart("Time line", [Line("skipped", lines[0].column, style="ticks")], rows=["skipped"]).summary == (
        "Time line: 2 times skipped"
    )
