"""Charts as SVG paths in a unit square that a page stretches to any width, with labels beside it that keep their size.

An SVG that is scaled as a whole has unreadable labels on a phone. Here only the curves are stretched; strokes keep
their width (vector-effect: non-scaling-stroke), and points are strokes of no length with round ends.
"""

from dataclasses import dataclass

from pretrain.reporting.charts import Chart, Line, short, ticks
from pretrain.reporting.columns import Column
from pretrain.reporting.figures import RUNNING_MEAN, SINGLE_STEPS

SIDE = 1000
"""Width and height of the drawing in its own units."""
UNNAMED = {SINGLE_STEPS, RUNNING_MEAN}
"""Curves that need no legend if they are alone: the page explains them once."""
NUM_COLORS = 8
"""Colors of the page's palette."""


@dataclass(frozen=True)
class Tick:
    """A label at a part of an axis, from the left or from the top."""

    percent: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    label: str
    style: str
    color: int
    """1 to NUM_COLORS."""
    dash: int
    """0 for a solid line; beyond the palette's end lines are dashed too."""
    path: str
    """The `d` of its path."""
    points: str
    """The `d` of its points, empty if it has none."""


@dataclass(frozen=True)
class Plot:
    """A chart, ready for the template."""

    title: str
    unit: str
    summary: str
    curves: list[Curve]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    restarts: list[float]
    """Parts of the width in percent."""
    last_step: int
    low: float
    high: float
    is_time_line: bool
    legend: list[Curve]
    label_width: int
    """Characters of the longest label of the vertical axis."""


def plot(chart: Chart) -> Plot:
    """Return the paths and labels of a chart."""
    low, high = chart.range
    curves = [_curve(chart, line, low, high) for line in chart.lines if len(line.column)]
    y_ticks = [Tick(_part(value, high, low), short(value, chart.unit)) for value in ticks(low, high, 5)]
    if chart.rows:
        y_ticks = [Tick(_part(row, high, low), text) for row, text in enumerate(chart.rows)]
    return Plot(
        title=chart.title,
        unit=chart.unit,
        summary=chart.summary,
        curves=curves,
        x_ticks=[Tick(_part(value, 0, chart.num_steps), short(value)) for value in ticks(0, chart.num_steps, 5)],
        y_ticks=y_ticks,
        restarts=[_part(step, 0, chart.num_steps) for step in chart.restarts],
        last_step=chart.num_steps,
        low=low,
        high=high,
        is_time_line=bool(chart.rows),
        label_width=max((len(tick.text) for tick in y_ticks), default=0),
        legend=curves if chart.has_legend and {curve.label for curve in curves} - UNNAMED and len(curves) > 1 else [],
    )


def _curve(chart: Chart, line: Line, low: float, high: float) -> Curve:
    column, drawn = line.column, line.style
    places = _places(column, chart.num_steps, low, high)
    if drawn == "ticks":
        height = SIDE / len(chart.rows) * 0.56
        path, points = "".join(f"M{x} {y - height / 2:.1f}v{height:.1f}" for x, y in places), ""
    else:
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        points = "".join(f"M{x} {y}h0" for x, y in places) if drawn in ("points", "hollow") or len(places) == 1 else ""
    return Curve(line.label, drawn, line.color % NUM_COLORS + 1, line.color // NUM_COLORS, path, points)


def _places(column: Column, last_step: int, low: float, high: float) -> list[tuple[float, float]]:
    """Return the points of a curve in the drawing's units, those above or below it moved to its edge."""
    xs = (column.steps / last_step * SIDE).round(1)
    ys = ((high - column.values) / (high - low) * SIDE).clip(0, SIDE).round(1)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _part(value: float, at_zero: float, at_hundred: float) -> float:
    return round((value - at_zero) / (at_hundred - at_zero) * 100, 2)
