"""Curves in the drawing's units."""

import numpy as np

from pretrain.reporting.charts import Chart, Line
from pretrain.reporting.columns import Column
from pretrain.reporting.plots import NUM_COLORS, plot


def chart_of(style: str, **changes: object) -> Chart:
    column = Column(np.array([0, 50, 100]), np.array([0.0, 10.0, 5.0]))
    lines = [Line("curve", column, 0, style, np.array([0.0, 5.0]))]  # type: ignore[arg-type]
    return Chart("title", lines, num_steps=100, starts_at_zero=True, restarts=[25], **changes)  # type: ignore[arg-type]


def test_values_beyond_the_axis_are_drawn_at_its_edge() -> None:
    found = plot(chart_of("line"))
    assert (found.low, found.high, found.last_step) == (0, 5.3, 100)
    assert found.curves[0].path == "M0.0 1000.0L500.0 0.0L1000.0 56.6"
    assert found.restarts == [25] and [tick.text for tick in found.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert found.y_ticks[0].percent == 100 and found.y_ticks[0].text == "0"


def test_measured_points_are_strokes_without_length() -> None:
    assert plot(chart_of("points")).curves[0].points == "M0.0 1000.0h0M500.0 0.0h0M1000.0 56.6h0"


def test_a_time_line_has_a_mark_per_step_in_its_row() -> None:
    column = Column(np.array([10, 90]), np.ones(2))
    found = plot(
        Chart("Time line", [Line("skipped", column, style="ticks")], num_steps=100, rows=["started", "skipped"])
    )
    assert found.curves[0].path == "M100.0 610.0v280.0M900.0 610.0v280.0"
    assert [(tick.percent, tick.text) for tick in found.y_ticks] == [(25, "started"), (75, "skipped")]


def test_colors_beyond_the_palette_are_dashed() -> None:
    line = Line("last", Column(np.array([1, 2]), np.ones(2)), color=NUM_COLORS + 1)
    curve = plot(Chart("title", [line])).curves[0]
    assert (curve.color, curve.dash) == (2, 1)
