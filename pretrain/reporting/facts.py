"""Facts about runs in words: how far they are, what they were run on, in which settings they differ."""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrain.reporting.charts import short
from pretrain.reporting.run_files import RunFiles, Start
from pretrain.reporting.thinning import smoothed

UNSET = "not set"
MAX_STARTS = 100
HEADLINES = {
    "loss/total": "held-out loss",
    "loss/contrastive": "held-out contrastive loss",
    "vqa/acc": "answers, held-out accuracy",
    "nlvr2/acc": "statements, held-out accuracy",
    "classify/top1": "classes, held-out accuracy",
    "caption/cider": "captions, CIDEr",
    "caption/bleu4": "captions, BLEU-4",
    "words/acc_right_image": "words, right image",
    "words/acc_wrong_image": "words, wrong image",
    "patches/acc": "hidden patches",
    "knn/acc": "k-NN",
    "retrieval/text_to_image_r1": "text to image, R@1",
    "retrieval/image_to_text_r1": "image to text, R@1",
}
"""Held-out figures in the overview, if the run has them."""


@dataclass(frozen=True)
class Overview:
    """One run in a few figures."""

    name: str
    folder: str
    status: str
    done: float
    """Part of the planned steps, 0..1."""
    facts: list[tuple[str, str]]
    """Name and value."""


@dataclass(frozen=True)
class Table:
    """Rows of text below a header."""

    header: list[str]
    rows: list[list[str]]


def overview(run: RunFiles) -> Overview:
    """Return the figures that stand above the curves."""
    loss, facts = smoothed(run.column("loss")), [("steps", f"{run.step:,} of {run.num_steps:,}")]
    if len(loss):
        facts.append(("training loss, running mean", short(loss.values[-1])))
    for name, label in HEADLINES.items():
        column = run.evaluations["raw"].get(name)
        if column is not None and len(column.finite):
            is_part = not name.startswith(("loss/", "caption/"))
            facts.append((label, short(column.finite.values[-1], "%" if is_part else "")))
    facts += _work(run)
    skipped, bad = len(run.steps_where("skipped")), run.column("bad_samples").finite.values.sum()
    facts += [("skipped steps", f"{skipped:,}"), ("bad samples", f"{bad:,.0f}"), ("starts", f"{len(run.starts):,}")]
    return Overview(run.name, str(run.folder), run.status, min(run.step / run.num_steps, 1), facts)


def _work(run: RunFiles) -> list[tuple[str, str]]:
    """Return duration, speed and samples, as far as they were logged."""
    found, when, seconds = [], run.column("time").finite.values, run.column("seconds").finite.values
    if len(when):
        found.append(("from first to last line", in_time(when[-1] - when[0])))
    if len(seconds):
        found.append(("time in steps", in_time(seconds.sum())))
    for name, label, unit in (
        ("tokens_per_second", "tokens per second, median", ""),
        ("mfu", "MFU, median", "%"),
        ("data_wait", "waiting for data, mean", "%"),
    ):
        values = run.column(name).finite.values
        if len(values):
            found.append((label, short(float(np.mean(values) if "mean" in label else np.median(values)), unit)))
    samples = run.column("samples_seen").finite.values
    return [*found, ("samples seen", f"{samples[-1]:,.0f}")] if len(samples) else found


def in_time(seconds: float) -> str:
    """Return a duration in words: 35 s, 12 min, 3 h 20 min, 4 d 2 h."""
    seconds = max(round(seconds), 0)
    if seconds < 120:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 2 else f"{days} d {hours % 24} h"


def differences(runs: list[RunFiles]) -> Table | None:
    """Return the settings in which runs differ, None if there is one run. Its own folder is not a setting."""
    if len(runs) < 2:
        return None
    flat = [flat_settings(run.config) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings if name != "run_dir")
    rows = [[name, *(settings.get(name, UNSET) for settings in flat)] for name in names]
    return Table(["setting", *(run.name for run in runs)], [row for row in rows if len(set(row[1:])) > 1])


def settings_table(run: RunFiles) -> Table:
    """Return all settings of a run."""
    return Table(["setting", "value"], [list(row) for row in flat_settings(run.config).items()])


def flat_settings(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as {"optimizer.peak_lr": "0.001"}."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat_settings(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def starts_table(run: RunFiles) -> Table:
    """Return when, where and with which packages the run was started; columns without an entry are left out."""
    rows, before = [], dict[str, str]()
    for start in run.starts[-MAX_STARTS:]:
        versions = dict(start.versions)
        changed = [f"{name} {version}" for name, version in versions.items() if before.get(name) != version]
        packages = ", ".join(changed) or "as before" * bool(versions)
        rows.append([in_utc(start.time), f"{start.first_step:,}", *_machines(start), packages])
        before = versions or before
    header = ["time (UTC)", "after step", "ranks", "machines", "versions"]
    used = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return Table([header[column] for column in used], [[row[column] for column in used] for row in rows])


def in_utc(seconds: float | None) -> str:
    """Return a moment as 2026-11-28 17:05, empty if it is unknown."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _machines(start: Start) -> list[str]:
    """Return the number of ranks, and the hosts and devices that they were on."""
    if not start.ranks:
        return ["", ""]
    # a rank's device is "cuda:3, NVIDIA H100 80GB HBM3", or "cpu"
    devices = Counter(str(rank.get("device", "unknown device")).rpartition(", ")[2] for rank in start.ranks)
    hosts = sorted({str(rank.get("host", "unknown host")) for rank in start.ranks})
    shown = ", ".join(hosts[:4]) + f" and {len(hosts) - 4} more" * (len(hosts) > 4)
    return [f"{len(start.ranks):,}", f"{', '.join(f'{count} x {name}' for name, count in devices.items())} on {shown}"]


def passes_table(runs: list[RunFiles]) -> Table:
    """Return the passes over each source at the last checkpoint that logged them."""
    rows = []
    for run in runs:
        for name, column in run.columns.items():
            if name.startswith("passes/") and len(column.finite):
                _, kind, source = name.split("/", 2)
                values, step = column.finite.values, column.finite.steps[-1]
                row = [kind, source, f"{values[-1]:,.2f}", f"{step:,}"]
                rows.append(row if len(runs) == 1 else [run.name, *row])
    header = ["kind", "source", "passes", "at step"]
    return Table(header if len(runs) == 1 else ["run", *header], rows)


def evaluations_table(run: RunFiles) -> Table | None:
    """Return the last and the best-known value of each held-out figure, None if the run was not evaluated."""
    rows = []
    for weights, figures in run.evaluations.items():
        for name, column in sorted(figures.items()):
            finite = column.finite
            if name != "step" and len(finite):
                first, last = finite.values[0], finite.values[-1]
                rows.append([name, weights, short(first), short(last), f"{finite.steps[-1]:,}"])
    return Table(["figure", "weights", "first", "last", "at step"], rows) if rows else None
