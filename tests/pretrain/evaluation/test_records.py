"""Lines of evaluations: written, read back, and reduced when a run resumes. CPU, milliseconds."""

import math
from pathlib import Path

import pytest

from pretrain.checkpoints.best import EVALUATIONS_NAME
from pretrain.evaluation.records import (
    append_evaluation,
    evaluation_line,
    in_words,
    read_evaluations,
    restore_evaluations,
)


def test_a_resumed_run_keeps_the_evaluation_of_its_checkpoint_and_drops_later_ones(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert read_evaluations(tmp_path) == restore_evaluations(tmp_path, 0) == []
    for step in (0, 3, 6):
        append_evaluation(tmp_path, evaluation_line(step, "raw", {"loss/mim": 5.5 - step, "probe/acc": math.nan}, 1.25))
        append_evaluation(tmp_path, evaluation_line(step, "ema", {"loss/mim": 5.0}, 1))
    with (tmp_path / EVALUATIONS_NAME).open("a") as file:
        file.write('{"step": 3, "weights": "raw", "figures"\n')
    kept = restore_evaluations(tmp_path, 3)
    assert [(line["step"], line["weights"]) for line in kept] == [
        (step, weights) for step in (0, 3) for weights in ("raw", "ema")
    ]
    assert kept == read_evaluations(tmp_path)
    assert kept[2] == {"step": 3, "weights": "raw", "figures": {"loss/mim": 2.5, "probe/acc": None}, "seconds": 1.25}
    assert "has 1 damaged or duplicate line" in capfd.readouterr().err


def test_shares_are_printed_in_percent() -> None:
    figures = {"loss/mim": 5.4321, "words/acc_right_image": 0.123, "codebook/usage": 0.5, "codebook/perplexity": 20.0}
    words = "loss/mim 5.432  words/acc_right_image 12.3%  codebook/usage 50.0%  codebook/perplexity 20.000"
    assert in_words(figures) == words
