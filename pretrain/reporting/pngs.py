"""The figures of a report as PNG files, drawn by matplotlib, for slides and papers."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from pretrain.reporting.charts import Chart, Line, short

COLORS = ("#0f62a6", "#c2410c", "#137a52", "#8a3fa0", "#8a6500", "#0e7b86", "#b3266b", "#565d68")
"""Those of the page in light mode."""
QUIET = "#5f6670"
INCHES, DPI = (6.0, 3.4), 150


def check_matplotlib() -> None:
    """Raise ValueError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--png needs matplotlib, which is not installed; pip install matplotlib, or leave --png out")


def write_pngs(charts: list[Chart], folder: Path) -> list[Path]:
    """Write a file per chart, named by its title, and return them. Raises OSError."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chart in charts:
        rows = len(chart.rows)
        figure, axis = pyplot.subplots(figsize=(INCHES[0], 0.8 + 0.3 * rows) if rows else INCHES, layout="constrained")
        _draw(axis, chart)
        path = folder / f"{file_name(chart.title)}.png"
        figure.savefig(path, dpi=DPI)
        pyplot.close(figure)
        written.append(path)
    return written


def file_name(title: str) -> str:
    """Return a title as a file name: letters, digits and underscores."""
    return re.sub(r"\W+", "_", title.lower()).strip("_")[:100] or "figure"


def _draw(axis: Any, chart: Chart) -> None:
    for line in chart.lines:
        if len(line.column):
            _draw_line(axis, line)
    for step in chart.restarts:
        axis.axvline(step, color=QUIET, linewidth=1, linestyle="--")
    axis.set_xlim(0, chart.num_steps)
    axis.set_ylim(*chart.range)
    axis.set_title(_plain(chart.title), fontsize=10, loc="left")
    axis.set_xlabel("steps", fontsize=9, color=QUIET)
    axis.tick_params(labelsize=8, colors=QUIET)
    axis.grid(axis="y", alpha=0.3)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda value, _: short(value))
    if chart.rows:
        axis.set_yticks(range(len(chart.rows)), list(map(_plain, chart.rows)))
    else:
        axis.yaxis.set_major_formatter(lambda value, _: short(value, chart.unit))
        if len(chart.lines) > 1:
            axis.legend(frameon=False, fontsize=8)


def _draw_line(axis: Any, line: Line) -> None:
    color, label = COLORS[line.color % len(COLORS)], _plain(line.label)
    steps, values = line.column.steps, line.column.values
    if line.style == "ticks":
        axis.scatter(steps, values, marker="|", s=120, color=color)
    elif line.style in ("points", "hollow"):
        face = color if line.style == "points" else "white"
        axis.plot(steps, values, color=color, label=label, linewidth=1, marker="o", markersize=4, markerfacecolor=face)
    elif line.style == "faint":
        axis.plot(steps, values, color=color, label=label, linewidth=0.8, alpha=0.35)
    else:
        axis.plot(steps, values, color=color, label=label, linewidth=1.8)


def _plain(text: str) -> str:
    """Return a text without signs that matplotlib takes for formulas or hides from legends."""
    return text.replace("$", r"\$").lstrip("_")
