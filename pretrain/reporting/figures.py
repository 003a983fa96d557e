"""The charts of a report: which figures of the log and of the evaluations belong into which chart."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pretrain.reporting.charts import Chart, Line
from pretrain.reporting.columns import Column
from pretrain.reporting.run_files import RunFiles
from pretrain.reporting.thinning import smoothed, thinned

LOSSES = {
    "loss": "Loss: the weighted sum",
    "losses/mim": "Patches of images (mim)",
    "losses/mvlm_image": "Patches of pairs (mvlm_image)",
    "losses/mlm": "Words of texts (mlm)",
    "losses/mvlm_text": "Words of captions (mvlm_text)",
}
OPTIMIZER = {"lr": ("Learning rate", ""), "grad_norm": ("Gradient norm, before clipping", "")}
SPEED = {
    "tokens_per_second": ("Tokens per second, all ranks", ""),
    "seconds": ("Seconds per step, without reading", "s"),
    "data_wait": ("Waiting for data", "%"),
    "mfu": ("MFU", "%"),
    "tflops_per_rank": ("TFLOPS per rank", ""),
}
NOT_DRAWN = {
    "step", "samples_seen", "skipped", "bad_samples", "stop", "num_skipped_steps", "num_tokens", "time",
}  # fmt: skip
"""Figures of the log that are marks on the time line, or grow with the step."""
PARTS_OF_ONE = ("acc", "usage", "share", "r1", "r5", "r10", "top1", "top5")
"""Ends or beginnings of the names of figures that are parts, shown as percentages."""
MAX_OTHERS = 24
"""Charts of figures that the report has no place of its own for."""
COMPARABLE = 30.0
"""Ratio of the largest to the smallest figure of a group up to which they share a chart."""


@dataclass(frozen=True, eq=False)
class Section:
    """Charts under one heading."""

    id: str
    title: str
    text: str
    charts: list[Chart]


def chart_sections(runs: list[RunFiles]) -> list[Section]:
    """Return the sections of a report that hold charts; those without any are left out."""
    drawn = {*LOSSES, *OPTIMIZER, *SPEED, *NOT_DRAWN}
    sections = [
        Section("time", "Time line", "", [time_line(runs)]),
        Section(
            "losses", "Losses", "Cross-entropies in nats. Thin: single steps; thick: their running mean over "
            "3 % of the run; dots: held-out samples.", loss_charts(runs),
        ),
        Section("evaluation", "Held-out evaluation", "", evaluation_charts(runs)),
        Section("optimizer", "Optimizer", "", [log_chart(runs, name, *OPTIMIZER[name]) for name in OPTIMIZER]),
        Section("speed", "Speed", "", [log_chart(runs, name, *SPEED[name], True) for name in SPEED]),
        Section("others", "Other figures of the log", "", other_charts(runs, drawn)),
    ]  # fmt: skip
    for section in sections:
        section.charts[:] = [chart for chart in section.charts if not chart.is_empty]
    return [section for section in sections if section.charts]


def loss_charts(runs: list[RunFiles]) -> list[Chart]:
    """Return a chart per loss that any run has logged: training, and over it the held-out loss."""
    logged = {name for run in runs for name in run.columns if name.startswith("losses/")}
    names = [name for name in LOSSES if name in {"loss", *logged}] + sorted(logged - set(LOSSES))
    return [_loss_chart(runs, name) for name in names]


def _loss_chart(runs: list[RunFiles], name: str) -> Chart:
    held_out = "loss/total" if name == "loss" else f"loss/{name.removeprefix('losses/')}"
    lines = []
    for number, run in enumerate(runs):
        lines += _log_lines(runs, number, name)
        for weights, style in (("raw", "points"), ("average", "hollow")):
            column = run.evaluations[weights].get(held_out)
            if column is not None:
                label = "held-out" + ", averaged weights" * (weights == "average")
                is_alone = len(runs) == 1
                color = (1 if weights == "raw" else 2) if is_alone else number
                lines.append(Line(label if is_alone else f"{run.name}, {label}", thinned(column), color, style))  # type: ignore[arg-type]
    title = LOSSES.get(name, name.removeprefix("losses/").replace("_", " ").capitalize())
    return _chart(runs, title, lines)


def evaluation_charts(runs: list[RunFiles]) -> list[Chart]:
    """Return charts of all held-out figures but the losses: of one run a chart per group, of several one per figure."""
    names = {name for run in runs for figures in run.evaluations.values() for name in figures}
    others = sorted(name for name in names if not name.startswith("loss/") and name != "step")
    charts = []
    for group in _groups(others) if len(runs) == 1 else [[name] for name in others]:
        lines = []
        for number, run in enumerate(runs):
            for place, name in enumerate(group):
                label = _words(name.rpartition("/")[2]) if len(runs) == 1 else run.name
                for weights, style in (("raw", "points"), ("average", "hollow")):
                    column = run.evaluations[weights].get(name)
                    if column is not None:
                        text = label + ", averaged weights" * (weights == "average")
                        color = place if len(runs) == 1 else number
                        lines.append(Line(text, thinned(column), color, style))  # type: ignore[arg-type]
        title = _words(group[0].partition("/")[0]) if len(runs) == 1 and len(group) > 1 else _words(group[0])
        charts.append(_chart(runs, title.capitalize(), lines, _unit(group[0])))
    return charts


def log_chart(runs: list[RunFiles], name: str, title: str, unit: str = "", starts_at_zero: bool = False) -> Chart:
    """Return the chart of one figure of the log."""
    lines = [line for number in range(len(runs)) for line in _log_lines(runs, number, name)]
    return _chart(runs, title, lines, unit, starts_at_zero)


def other_charts(runs: list[RunFiles], drawn: set[str]) -> list[Chart]:
    """Return charts of figures of the log that have no place of their own: of one run, comparable ones of a group share
    a chart."""
    names = {name for run in runs for name in run.columns}
    others = sorted(name for name in names - drawn if not name.startswith(("losses/", "passes/")))
    charts = []
    for group in _groups(others):
        if len(runs) == 1 and len(group) > 1 and _are_comparable(runs[0], group):
            lines = [
                Line(_words(name.partition("/")[2]), smoothed(runs[0].column(name)), place)
                for place, name in enumerate(group)
            ]
            charts.append(_chart(runs, _words(group[0].partition("/")[0]).capitalize(), lines, _unit(group[0])))
        else:
            charts += [log_chart(runs, name, _words(name).capitalize(), _unit(name)) for name in group]
    return charts[:MAX_OTHERS]


def passes_chart(runs: list[RunFiles]) -> Chart:
    """Return the passes over each source, as logged at each checkpoint."""
    lines = []
    for run in runs:
        for name, column in run.columns.items():
            if name.startswith("passes/"):
                _, kind, source = name.split("/", 2)
                label = f"{kind}: {source}" if len(runs) == 1 else f"{run.name}, {kind}: {source}"
                lines.append(Line(label, thinned(column), len(lines), "points"))
    return _chart(runs, "Passes over each source", lines, starts_at_zero=True)


def time_line(runs: list[RunFiles]) -> Chart:
    """Return the time line: starts, evaluations, skipped steps, steps with bad samples, checkpoints of each run."""
    kinds: dict[str, Callable[[RunFiles], Column]] = {
        "started": lambda run: _marks([start.first_step for start in run.starts]),
        "evaluated": lambda run: _marks([step for figures in run.evaluations.values() for step in _steps(figures)]),
        "skipped": lambda run: run.steps_where("skipped"),
        "bad samples": lambda run: run.steps_where("bad_samples"),
    }
    rows, lines = [], []
    for number, run in enumerate(runs):
        for color, (kind, marks) in enumerate(kinds.items()):
            rows.append(kind if len(runs) == 1 else f"{run.name}: {kind}")
            column = thinned(marks(run))
            at_row = Column(column.steps, np.full(len(column), len(rows) - 1.0))
            lines.append(Line(kind, at_row, color if len(runs) == 1 else number, "ticks"))
    return Chart("Time line", lines, num_steps=_num_steps(runs), rows=rows)


def _steps(figures: dict[str, Column]) -> set[int]:
    return {int(step) for column in figures.values() for step in column.steps}


def _marks(steps: list[int]) -> Column:
    found = np.unique(np.array(steps, np.int64))
    return Column(found, np.ones(len(found)))


def _log_lines(runs: list[RunFiles], number: int, name: str) -> list[Line]:
    """Return the lines of a figure of one run: alone with its single steps, beside others only the running mean."""
    column = runs[number].column(name).finite
    if not len(column):
        return []
    if len(runs) > 1:
        return [Line(runs[number].name, smoothed(column), number)]
    raw, mean = thinned(column), smoothed(column)
    if name == "lr":
        return [Line("learning rate", raw)]
    return [Line("single steps", raw, 0, "faint"), Line("running mean", mean)]


def _chart(runs: list[RunFiles], title: str, lines: list[Line], unit: str = "", starts_at_zero: bool = False) -> Chart:
    restarts = [start.first_step for start in runs[0].starts if start.first_step] if len(runs) == 1 else []
    return Chart(title, lines, unit, _num_steps(runs), restarts, starts_at_zero=starts_at_zero)


def _num_steps(runs: list[RunFiles]) -> int:
    """Return the end of the horizontal axis: the last step that is done, not the last planned one."""
    return max([run.step for run in runs] + [1])


def _groups(names: list[str]) -> list[list[str]]:
    """Return names of the same group and unit together: words/acc_right_image with words/acc_wrong_image."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        group, has_group, figure = name.rpartition("/")
        groups.setdefault((group, figure.partition("_")[0]) if has_group else (name, ""), []).append(name)
    return list(groups.values())


def _are_comparable(run: RunFiles, names: list[str]) -> bool:
    sizes = [float(np.median(np.abs(values))) for name in names if len(values := run.column(name).finite.values)]
    return not sizes or max(sizes) <= COMPARABLE * max(min(sizes), math.ulp(0.0))


def _unit(name: str) -> str:
    parts = name.rpartition("/")[2].split("_")
    return "%" if parts[0] in PARTS_OF_ONE or parts[-1] in PARTS_OF_ONE else ""


def _words(name: str) -> str:
    return name.replace("/", ": ").replace("_", " ")
