"""The best checkpoint of a run by a figure of its evaluations: it is kept, and the file checkpoints/best names it.

A file of one JSON object, not a symbolic link: some file systems have none, and a copy that follows links would hold
the checkpoint twice. Every command that takes a checkpoint folder takes RUN/checkpoints/best.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic

from model.weight_files import read_json_object
from pretrain.checkpoints.manifest import has_manifest, sync
from pretrain.config.evaluation import EvaluationConfig

BEST_NAME = "best"
EVALUATIONS_NAME = "evaluations.jsonl"
"""File of a run's evaluations, in its folder, and of its own in a checkpoint; pretrain/evaluation/records.py."""


@dataclass(frozen=True)
class Best:
    """What the file says."""

    checkpoint: str
    """Name of the checkpoint's folder, beside the file."""
    figure: str
    value: float
    best_is: str
    """Whether the lowest or the highest value is the best."""

    @property
    def step(self) -> int:
        return int(self.checkpoint.removeprefix("step_"))


def read_best(folder: Path) -> Best | None:
    """Return the best checkpoint of a folder of checkpoints; None if none is named, or it is not there any more."""
    try:
        found = pydantic.TypeAdapter(Best).validate_python(read_json_object(folder / BEST_NAME))
    except (OSError, ValueError):
        return None
    is_name = Path(found.checkpoint).name == found.checkpoint and found.checkpoint.startswith("step_")
    return found if is_name and has_manifest(folder / found.checkpoint) else None


def resolve_best(source: Path) -> Path:
    """Return the folder of the best checkpoint for RUN/checkpoints/best, any other path as it is.

    Raises ValueError if the file names no complete checkpoint.
    """
    if source.name != BEST_NAME or not source.is_file():
        return source
    found = read_best(source.parent)
    if found is None:
        raise ValueError(f"{source} names no complete checkpoint beside it; give a run or a checkpoint folder")
    return source.parent / found.checkpoint


def update_best(checkpoint: Path, evaluations: Sequence[Mapping[str, Any]], settings: EvaluationConfig) -> Path | None:
    """Name a complete checkpoint as the best if its figure is better than that of the best so far.

    evaluations: of the checkpoint, as in evaluations.jsonl; those of averaged weights do not count. Returns the folder
    of the best, None if there is none. Raises OSError.
    """
    if settings.best is None:
        return None
    folder, best = checkpoint.parent, read_best(checkpoint.parent)
    if best is not None and (best.figure, best.best_is) != (settings.best, settings.best_is):
        best = None  # another figure decides now
    value = next((line["figures"].get(settings.best) for line in evaluations if line["weights"] == "raw"), None)
    if value is not None and math.isfinite(value) and (best is None or _is_better(value, best)):
        best = Best(checkpoint.name, settings.best, value, settings.best_is)
        _write(folder, best)
    return None if best is None else folder / best.checkpoint


def forget_later(folder: Path, first_step: int) -> None:
    """Delete the file if it names a checkpoint after the one at which the run resumes. Raises OSError."""
    best = read_best(folder)
    if best is not None and best.step > first_step:
        (folder / BEST_NAME).unlink()


def _is_better(value: float, best: Best) -> bool:
    return value < best.value if best.best_is == "lowest" else value > best.value


def _write(folder: Path, best: Best) -> None:
    partial = folder / f"{BEST_NAME}.partial"
    with partial.open("w") as file:
        file.write(json.dumps(asdict(best)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / BEST_NAME)
    sync(folder)
