"""One JSON line per evaluation in RUN/evaluations.jsonl.

    {"step": 1000, "weights": "raw", "figures": {"loss/mim": 5.21, ...}, "seconds": 3.4}

step: the number of steps done. weights: `raw`, or `ema` if a moving average of the weights was evaluated. A figure
that is not finite is null.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

from data_pipeline.files.retries import written_with_retries
from pretrain.checkpoints.best import EVALUATIONS_NAME
from pretrain.evaluation.evaluation import Figures
from pretrain.survival.json_lines import append_whole, read_records, restore_lines

Weights = Literal["raw", "ema"]


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Return the sound lines of a run's evaluations, in their order; [] if there are none. Raises OSError."""
    return read_records(run_dir / EVALUATIONS_NAME, is_evaluation)


def restore_evaluations(run_dir: Path, first_step: int) -> list[dict[str, Any]]:
    """Reduce the file to evaluations of a run that resumes after `first_step` steps; return them. Raises OSError."""
    path = run_dir / EVALUATIONS_NAME
    # that of the checkpoint itself was made before it was saved
    return restore_lines(path, is_evaluation, lambda line: (line["step"], line["weights"]), first_step + 1)


def figures_at(run_dir: Path, step: int, weights: Weights) -> dict[str, float | None]:
    """Return the figures of a step, {} if the run was not evaluated there. Raises OSError."""
    lines = [line for line in read_evaluations(run_dir) if (line["step"], line["weights"]) == (step, weights)]
    return lines[-1]["figures"] if lines else {}


def evaluation_line(step: int, weights: Weights, figures: Figures, seconds: float) -> dict[str, Any]:
    """Return an evaluation as it is recorded."""
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return {"step": step, "weights": weights, "figures": finite, "seconds": round(seconds, 3)}


def append_evaluation(run_dir: Path, line: dict[str, Any]) -> None:
    """Write a line to disk. Raises OSError."""
    path = run_dir / EVALUATIONS_NAME

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            append_whole(file, (json.dumps(line) + "\n").encode())
            os.fsync(file.fileno())

    written_with_retries(write, path)


def in_words(figures: Figures) -> str:
    """Return figures in one line: shares in percent, all others as numbers."""
    return "  ".join(f"{name} {_value(name, value)}" for name, value in figures.items())


def _value(name: str, value: float) -> str:
    is_share = "acc" in name or "/top" in name or name.startswith("retrieval/") or name == "codebook/usage"
    return f"{value:.1%}" if is_share else f"{value:.3f}"


def is_evaluation(record: dict[str, Any]) -> bool:
    """Return whether a JSON object has the form of an evaluation."""
    step, figures = record.get("step"), record.get("figures")
    is_named = record.get("weights") in ("raw", "ema") and isinstance(figures, dict)
    has_step = type(step) is int and step >= 0
    return is_named and has_step and all(isinstance(value, int | float | None) for value in (figures or {}).values())
