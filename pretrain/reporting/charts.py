"""Charts as data: which lines, in which colors, on which axes. page.py draws them as SVG, pngs.py with matplotlib."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pretrain.reporting.columns import Column, Floats
from pretrain.reporting.thinning import bounds

LineStyle = Literal["line", "faint", "points", "hollow", "ticks"]
"""A curve; single steps behind it; measured points on a thin line, full or hollow; upright marks on a time line."""


@dataclass(frozen=True, eq=False)
class Line:
    """One curve of a chart."""

    label: str
    column: Column
    color: int = 0
    """Place in the palette, of the run or of the figure."""
    style: LineStyle = "line"
    limits: Floats | None = None
    """Values that the axis must show; None: all of the curve. One spike must not flatten the others."""


@dataclass(frozen=True, eq=False)
class Chart:
    """Curves over the steps of runs."""

    title: str
    lines: list[Line]
    unit: str = ""
    """Empty if the figure has none. `%`: values are parts, shown times 100."""
    num_steps: int = 1
    """Steps of the longest run: the end of the horizontal axis."""
    restarts: list[int] = field(default_factory=list)
    """Steps at which the run was started again."""
    rows: list[str] = field(default_factory=list)
    """Labels of the rows 0, 1, ... of a time line; empty for a chart with a vertical axis."""
    starts_at_zero: bool = False
    """Whether the vertical axis includes 0."""
    has_legend: bool = True
    """False if the page has one legend for all charts, as for several runs."""

    @property
    def is_empty(self) -> bool:
        return not any(len(line.column) for line in self.lines)

    @property
    def range(self) -> tuple[float, float]:
        """Limits of the vertical axis, with a little room above and below."""
        if self.rows:
            return len(self.rows) - 0.5, -0.5  # row 0 above
        low, high = bounds([line.column.values if line.limits is None else line.limits for line in self.lines])
        if self.starts_at_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        room = 0.06 * (high - low)
        return (low if low == 0 else low - room), high + room

    @property
    def summary(self) -> str:
        """The chart in words, for readers that do not see it."""
        if self.rows:
            parts = [f"{len(line.column)} times {line.label}" for line in self.lines]
        else:
            parts = [
                f"{line.label} from {short(line.column.values[0], self.unit)} at step {line.column.steps[0]} to "
                f"{short(line.column.values[-1], self.unit)} at step {line.column.steps[-1]}"
                for line in self.lines
                if len(line.column) and line.style != "faint"
            ]
        return f"{self.title}: {'; '.join(parts) or 'nothing'}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers within a range, evenly spaced, about `most` of them at most."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return []
    power = 10.0 ** math.floor(math.log10(span / most))
    distance = next(power * factor for factor in (1, 2, 2.5, 5, 10) if span / (power * factor) <= most)
    first = math.ceil(low / distance - 1e-9)
    last = math.floor(high / distance + 1e-9)
    return [number * distance for number in range(first, last + 1)]


def short(value: float, unit: str = "") -> str:
    """Return a number in a few characters: 0.05, 3.14, 12k, 1.2M; as a percentage if that is the unit."""
    if not math.isfinite(value):
        return "none"
    if unit == "%":
        return f"{100 * value:.3g} %"
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = limit if letter != "k" else 1e3
            return f"{value / scale:.4g}{letter}"
    if value and abs(value) < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
