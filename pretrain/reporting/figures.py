"""The charts of a report: which figures of the log and of the evaluations belong into which chart."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pretrain.reporting.charts import Chart, Line
from pretrain.reporting.columns import NO_COLUMN, Column
from pretrain.reporting.run_files import RunFiles
from pretrain.reporting.thinning import smoothed, thinned, usual

LOSSES = {
    "loss": "Loss: the weighted sum",
    "losses/contrastive": "Images and texts (contrastive)",
    "losses/mim": "Patches of images (mim)",
    "losses/mvlm_image": "Patches of pairs (mvlm_image)",
    "losses/mlm": "Words of texts (mlm)",
    "losses/mvlm_text": "Words of captions (mvlm_text)",
    "losses/vqa": "Answers to questions (vqa)",
    "losses/nlvr2": "Statements on two images (nlvr2)",
    "losses/caption": "Words of captions (caption)",
    "losses/classify": "Classes (classify)",
}
WHOLE_LOSSES = ("losses/contrastive", "losses/vqa", "losses/nlvr2", "losses/caption", "losses/classify")
"""Losses that are the whole loss of a run that has no other."""
TASK = {
    "task/score": ("Score of the likeliest answers of the batch", "%"),
    "task/accuracy": ("Samples of the batch with the right label", "%"),
}
CONTRAST = {
    "contrast/image_to_text": ("Images whose own text is the nearest of the batch", "%"),
    "contrast/text_to_image": ("Texts whose own image is the nearest of the batch", "%"),
    "contrast/scale": ("Factor of similarities, exp(logit_scale)", ""),
}
OPTIMIZER = {"lr": ("Learning rate", ""), "grad_norm": ("Gradient norm, before clipping", "")}
SPEED = {
    "tokens_per_second": ("Tokens per second, all ranks", ""),
    "seconds": ("Seconds per step, without reading", "s"),
    "data_wait": ("Waiting for data", "%"),
    "mfu": ("MFU", "%"),
    "tflops_per_rank": ("TFLOPS per rank", ""),
    "memory_gib": ("Memory of the main rank in GiB", ""),
}
GROUPS = {
    "vqa": "Answers to questions",
    "nlvr2": "Statements on two images",
    "caption": "Written captions",
    "classify": "Classification",
    "words": "Hidden words",
    "patches": "Hidden patches",
    "retrieval": "Retrieval",
    "zero_shot": "Zero-shot classification",
    "knn": "k-NN",
    "probe": "Linear probe",
    "codebook": "Codebook",
}
"""Groups of held-out figures, in the order of their charts."""
OTHERS = {"grad_norms": "Gradient norm by part", "weight_norms": "Weight norm by part"}
"""Titles of groups of figures of the log."""
NOT_DRAWN = {
    "step", "samples_seen", "skipped", "bad_samples", "stop", "num_skipped_steps", "num_tokens", "time",
}  # fmt: skip
"""Figures of the log that are marks on the time line, or grow with the step."""
PARTS_OF_ONE = ("acc", "usage", "share", "r1", "r5", "r10", "top1", "top5")
"""Ends or beginnings of the names of figures that are parts, shown as percentages."""
SINGLE_STEPS, RUNNING_MEAN = "single steps", "running mean"
"""Labels of the curves of one run."""
MARK_COLORS = (0, 2, 1, 4)
"""Colors of starts, evaluations, skipped steps and bad samples on the time line of one run."""
IN_WORDS = {"acc": "accuracy", "nll": "nll in nats", "gb": "GB", "r1": "R@1", "r5": "R@5", "r10": "R@10"}
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
    has_average = any(run.evaluations["ema"] for run in runs)
    evaluation_text = "Rings: with the averaged weights, if they differ." if has_average else ""
    drawn = {*LOSSES, *CONTRAST, *TASK, *OPTIMIZER, *SPEED, *NOT_DRAWN}
    sections = [
        Section("time", "Time line", "", [time_line(runs)]),
        Section(
            "losses", "Losses", "Cross-entropies in nats. Thin: single steps; thick: their running mean over "
            "3 % of the run; dots: held-out samples; rings: held-out samples with the averaged weights.",
            loss_charts(runs),
        ),
        Section("contrast", "Contrast", "", [log_chart(runs, name, *CONTRAST[name], True) for name in CONTRAST]),
        Section("task", "Task", "", [log_chart(runs, name, *TASK[name], True) for name in TASK]),
        Section("evaluation", "Held-out evaluation", evaluation_text, evaluation_charts(runs)),
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
    whole = set() if len(logged) == 1 and logged <= set(WHOLE_LOSSES) else {"loss"}
    names = [name for name in LOSSES if name in whole | logged] + sorted(logged - set(LOSSES))
    return [_loss_chart(runs, name) for name in names]


def _loss_chart(runs: list[RunFiles], name: str) -> Chart:
    held_out = "loss/total" if name == "loss" else f"loss/{name.removeprefix('losses/')}"
    lines, is_alone = [], len(runs) == 1
    for number, run in enumerate(runs):
        label = "held-out" if is_alone else f"{run.name}, held-out"
        lines += _log_lines(runs, number, name)
        lines += _held_out_lines(run, held_out, label, 1 if is_alone else number, 2 if is_alone else number)
    title = LOSSES.get(name, name.removeprefix("losses/").replace("_", " ").capitalize())
    return _chart(runs, title, lines)


def evaluation_charts(runs: list[RunFiles]) -> list[Chart]:
    """Return charts of all held-out figures but the losses: of one run a chart per group, of several one per figure."""
    names = {name for run in runs for figures in run.evaluations.values() for name in figures}
    others = sorted((name for name in names if not name.startswith("loss/") and name != "step"), key=_rank)
    groups = _groups(others, True) if len(runs) == 1 else [[name] for name in others]
    return [_evaluation_chart(runs, group) for group in groups]


def _evaluation_chart(runs: list[RunFiles], names: list[str]) -> Chart:
    lines = []
    for number, run in enumerate(runs):
        for place, name in enumerate(names):
            label = _words(name.rpartition("/")[2]).removeprefix("accuracy ") if len(runs) == 1 else run.name
            lines += _held_out_lines(run, name, label, place if len(runs) == 1 else number)
    group, unit = names[0].rpartition("/")[0], _unit(names[0])
    common = _words(_common([name.rpartition("/")[2] for name in names]))
    title = ": ".join(filter(None, (GROUPS.get(group, _words(group).capitalize()), common)))
    return _chart(runs, title, lines, unit, unit == "%")


def _held_out_lines(
    run: RunFiles, name: str, label: str, color: int, color_of_average: int | None = None
) -> list[Line]:
    """Return a held-out figure of the weights, and of their moving average if it differs."""
    raw, average = (run.evaluations[weights].get(name, NO_COLUMN).finite for weights in ("raw", "ema"))
    lines = [Line(label, thinned(raw), color, "points")] if len(raw) else []
    if len(average) and not np.array_equal(raw.values, average.values):
        color = color if color_of_average is None else color_of_average
        lines.append(Line(f"{label}, averaged weights", thinned(average), color, "hollow"))
    return lines


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
    for group in _groups(others, False):
        if len(runs) == 1 and len(group) > 1 and _are_comparable(runs[0], group):
            lines = [
                Line(_words(name.partition("/")[2]), smoothed(runs[0].column(name)), place)
                for place, name in enumerate(group)
            ]
            name = group[0].partition("/")[0]
            charts.append(_chart(runs, OTHERS.get(name, _words(name).capitalize()), lines, _unit(group[0])))
        else:
            charts += [log_chart(runs, name, _words(name).capitalize(), _unit(name)) for name in group]
    return charts[:MAX_OTHERS]


def passes_chart(runs: list[RunFiles]) -> Chart:
    """Return the passes over each source, as logged at each checkpoint."""
    lines: list[Line] = []
    for run in runs:
        for name, column in run.columns.items():
            if name.startswith("passes/"):
                _, kind, source = name.split("/", 2)
                label = f"{kind}: {source}" if len(runs) == 1 else f"{run.name}, {kind}: {source}"
                lines.append(Line(label, thinned(column), len(lines), "points"))
    return Chart("Passes over each source", lines, num_steps=_num_steps(runs), starts_at_zero=True)


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
        for color, (kind, marks) in zip(MARK_COLORS, kinds.items(), strict=True):
            column = thinned(marks(run))
            if len(runs) > 1 and not len(column):
                continue
            rows.append(kind if len(runs) == 1 else f"{run.name}: {kind}")
            at_row = Column(column.steps, np.full(len(column), len(rows) - 1.0))
            lines.append(Line(kind, at_row, color if len(runs) == 1 else number, "ticks"))
    return Chart("Time line", lines, num_steps=_num_steps(runs), rows=rows, has_legend=False)


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
    return [Line(SINGLE_STEPS, raw, 0, "faint", usual(column)), Line(RUNNING_MEAN, mean)]


def _chart(runs: list[RunFiles], title: str, lines: list[Line], unit: str = "", starts_at_zero: bool = False) -> Chart:
    restarts = [start.first_step for start in runs[0].starts if start.first_step] if len(runs) == 1 else []
    return Chart(
        title, lines, unit, _num_steps(runs), restarts, starts_at_zero=starts_at_zero, has_legend=len(runs) == 1
    )


def _num_steps(runs: list[RunFiles]) -> int:
    """Return the end of the horizontal axis: the last step that is done, not the last planned one."""
    return max([run.step for run in runs] + [1])


def _groups(names: list[str], by_measure: bool) -> list[list[str]]:
    """Return names of the same group together; by_measure: only those that begin alike, as words/acc_right_image and
    words/acc_wrong_image do."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        group, has_group, figure = name.rpartition("/")
        measure = figure.partition("_")[0] if by_measure else ""
        groups.setdefault((group, measure) if has_group else (name, ""), []).append(name)
    return list(groups.values())


def _common(names: list[str]) -> str:
    """Return the words that all names begin with: acc of acc_right_image and acc_wrong_image."""
    words = zip(*(name.split("_") for name in names), strict=False)
    return "_".join(same[0] for same in itertools.takewhile(lambda same: len(set(same)) == 1, words))


def _rank(name: str) -> tuple[int, str]:
    """Return the place of a held-out figure: known groups first, in their order."""
    group = name.rpartition("/")[0]
    return (list(GROUPS).index(group) if group in GROUPS else len(GROUPS)), name


def _are_comparable(run: RunFiles, names: list[str]) -> bool:
    sizes = [float(np.median(np.abs(values))) for name in names if len(values := run.column(name).finite.values)]
    return not sizes or max(sizes) <= COMPARABLE * max(min(sizes), math.ulp(0.0))


def _unit(name: str) -> str:
    parts = name.rpartition("/")[2].split("_")
    return "%" if parts[0] in PARTS_OF_ONE or parts[-1] in PARTS_OF_ONE else ""


def _words(name: str) -> str:
    """Return a name of the log in words."""
    words = name.replace("/", ": ").replace("_", " ").split(" ")
    return " ".join(IN_WORDS.get(word, word) for word in words)
