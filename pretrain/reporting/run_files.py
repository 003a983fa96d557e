"""The files of a run folder that a report reads. Any of them may be missing, of an older version, or still growing."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.reporting.columns import NO_COLUMN, Column, read_columns, read_json_lines
from pretrain.run.run_log import LOG_NAME, is_log_line
from pretrain.survival.console import warn

CONFIG_NAME, EVALUATIONS_NAME, ENVIRONMENT_NAME = "config.json", "evaluations.jsonl", "environment.json"
STALE_SECONDS = 600.0
"""Age of the last log line after which a run that is not complete no longer counts as running."""


@dataclass(frozen=True)
class Start:
    """One start of a run: the first, or a resume."""

    first_step: int
    """Number of steps that were done before it."""
    time: float | None = None
    """Unix seconds; None if the run did not record it."""
    ranks: tuple[dict[str, Any], ...] = ()
    """Host, device and more of each rank."""
    versions: tuple[tuple[str, str], ...] = ()
    """Name and version of each package, and the commit of the project."""


@dataclass(frozen=True, eq=False)
class RunFiles:
    """One run, as its folder holds it. Steps count those that are done: the first line of the log is step 1."""

    folder: Path
    name: str
    """Short name, different from those of the other runs of the report."""
    columns: dict[str, Column]
    """Figures of the log by name, parts of nested ones as losses/mim."""
    evaluations: dict[str, dict[str, Column]]
    """Held-out figures by name, of the weights `raw` and `ema`."""
    starts: tuple[Start, ...]
    config: dict[str, Any]
    """Settings as JSON; empty if config.json is missing."""
    seconds_since_log: float | None
    """Age of the last log line; None without a log."""

    def column(self, name: str) -> Column:
        """Return a figure of the log, empty if the run did not log it."""
        return self.columns.get(name, NO_COLUMN)

    def steps_where(self, name: str) -> Column:
        """Return the steps at which a figure of the log is above 0, such as `skipped`."""
        column = self.column(name).finite
        return Column(column.steps[column.values > 0], column.values[column.values > 0])

    @property
    def step(self) -> int:
        """The number of steps that are done."""
        steps = self.column("loss").steps
        return int(steps[-1]) if len(steps) else 0

    @property
    def num_steps(self) -> int:
        """The number of steps that the run is to take."""
        planned = self.config.get("num_steps")
        return max(planned, 1) if isinstance(planned, int) and planned >= self.step else max(self.step, 1)

    @property
    def status(self) -> str:
        """Whether the run is complete, running, stopped, or was interrupted."""
        if self.seconds_since_log is None or not self.step:
            return "no step logged yet"
        if self.step >= self.num_steps and "num_steps" in self.config:
            return "complete"
        if self.seconds_since_log < STALE_SECONDS and not self.column("stop").values[-1:].any():
            return "running"
        return "stopped on request" if self.column("stop").values[-1:].any() else "interrupted"


def read_run(folder: Path, name: str = "") -> RunFiles:
    """Read a run folder. Raises ValueError if it is none, OSError if a file of it cannot be read."""
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; give the folder of a run")
    log = folder / LOG_NAME
    if not log.exists() and not (folder / "checkpoints").is_dir():
        raise ValueError(f"{folder} holds neither {LOG_NAME} nor checkpoints; give the folder of a run")
    columns = {
        name: Column(column.steps + 1, column.values)
        for name, column in read_columns(filter(is_log_line, read_json_lines(log))).items()
    }
    evaluations = {weights: read_evaluations(folder, weights) for weights in ("raw", "ema")}
    starts = _starts(read_object(folder / ENVIRONMENT_NAME)) or _starts_after_stops(columns.get("stop", NO_COLUMN))
    age = time.time() - log.stat().st_mtime if log.exists() else None
    return RunFiles(folder, name or folder.name, columns, evaluations, starts, read_object(folder / CONFIG_NAME), age)


def read_runs(folders: Sequence[Path]) -> list[RunFiles]:
    """Read several runs, with as much of their paths as names as tells them apart."""
    paths = [folder.absolute() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("a run is given twice; give each once")
    common = len(os.path.commonpath([path.parent for path in paths]).rstrip("/"))
    is_unique = len({path.name for path in paths}) == len(paths)
    names = [path.name if is_unique else str(path)[common:].lstrip("/") for path in paths]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_evaluations(folder: Path, weights: str) -> dict[str, Column]:
    """Return the held-out figures of a run with these weights, by name. Raises OSError."""
    lines = filter(is_evaluation, read_json_lines(folder / EVALUATIONS_NAME))
    return read_columns({**line["figures"], "step": line["step"]} for line in lines if line["weights"] == weights)


def is_evaluation(record: dict[str, Any]) -> bool:
    """Return whether a JSON object has the form of a line of evaluations.jsonl."""
    step, figures = record.get("step"), record.get("figures")
    return type(step) is int and step >= 0 and isinstance(figures, dict) and isinstance(record.get("weights"), str)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, {} with a warning if it is damaged. Raises OSError."""
    try:
        found = json.loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        warn(f"warning: {path} is not a JSON object; the report does without it")
        return {}
    return found


def _starts(environment: dict[str, Any]) -> tuple[Start, ...]:
    entries = environment.get("starts")
    starts = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return tuple(map(_start, starts))


def _start(entry: dict[str, Any]) -> Start:
    first, when, ranks, versions = (entry.get(name) for name in ("first_step", "time", "ranks", "versions"))
    commit = {"commit": entry["commit"]} if isinstance(entry.get("commit"), str) and entry["commit"] else {}
    return Start(
        first if isinstance(first, int) else 0,
        float(when) if isinstance(when, int | float) and 0 <= when < 1e11 else None,
        tuple(rank for rank in ranks if isinstance(rank, dict)) if isinstance(ranks, list) else (),
        tuple((str(name), str(value)) for name, value in {**commit, **versions}.items())
        if isinstance(versions, dict)
        else (),
    )


def _starts_after_stops(stop: Column) -> tuple[Start, ...]:
    """Return the starts of a run without environment.json: its log marks the steps after which it stopped."""
    if not len(stop):
        return ()
    last = stop.steps[-1]
    return (Start(0), *(Start(int(step)) for step in stop.steps[stop.values > 0] if step < last))
