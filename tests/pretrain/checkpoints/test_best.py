"""The best checkpoint: which one it is, and that the file that names it is never trusted blindly. CPU, milliseconds."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.checkpoints.best import BEST_NAME, Best, forget_later, read_best, resolve_best, update_best
from pretrain.checkpoints.manifest import MANIFEST_NAME
from pretrain.config.evaluation import EvaluationConfig

LOWEST = EvaluationConfig(best="loss/mlm")
HIGHEST = EvaluationConfig(best="words/acc", best_is="highest")


def saved(folder: Path, step: int) -> Path:
    checkpoint = folder / f"step_{step:08d}"
    checkpoint.mkdir()
    (checkpoint / MANIFEST_NAME).write_text("{}")
    return checkpoint


def line(value: float | None, name: str = "loss/mlm", weights: str = "raw") -> list[dict[str, Any]]:
    return [{"step": 0, "weights": weights, "figures": {name: value}}]


def test_the_best_so_far_is_named(tmp_path: Path) -> None:
    first, second, third, fourth = (saved(tmp_path, step) for step in (2, 4, 6, 8))
    assert update_best(first, [], LOWEST) is None  # not evaluated
    assert update_best(first, line(3.0), LOWEST) == first
    assert update_best(second, line(3.5), LOWEST) == first
    assert update_best(second, line(1.0, weights="ema"), LOWEST) == first
    assert update_best(third, line(2.5), LOWEST) == third
    assert update_best(fourth, line(2.5), LOWEST) == third  # a tie keeps the earlier one
    assert update_best(fourth, line(None), LOWEST) == third
    assert read_best(tmp_path) == Best(third.name, "loss/mlm", 2.5, "lowest")
    assert resolve_best(tmp_path / BEST_NAME) == third and resolve_best(first) == first
    assert update_best(fourth, line(0.1, "words/acc"), HIGHEST) == fourth  # another figure decides now
    assert update_best(first, line(0.2, "words/acc"), HIGHEST) == first
    assert update_best(first, line(0.2), EvaluationConfig()) is None


def test_a_later_checkpoint_is_forgotten_when_a_run_resumes_before_it(tmp_path: Path) -> None:
    update_best(saved(tmp_path, 6), line(1.0), LOWEST)
    forget_later(tmp_path, 6)
    assert read_best(tmp_path) is not None
    forget_later(tmp_path, 4)
    assert read_best(tmp_path) is None and not (tmp_path / BEST_NAME).exists()
    forget_later(tmp_path, 4)


@pytest.mark.parametrize("name", ["step_00000004", "../step_00000002", "other"])
def test_a_file_that_names_no_checkpoint_beside_it_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    saved(folder, 2), saved(tmp_path, 2)
    content = {"checkpoint": name, "figure": "loss/mlm", "value": 1.0, "best_is": "lowest"}
    (folder / BEST_NAME).write_text(json.dumps(content))
    assert read_best(folder) is None
    with pytest.raises(ValueError, match="names no complete checkpoint beside it"):
        resolve_best(folder / BEST_NAME)
    (folder / BEST_NAME).write_text("damaged")
    assert read_best(folder) is None
