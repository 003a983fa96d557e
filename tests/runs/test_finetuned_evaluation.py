"""Evaluation in a finetuning run under ZeRO-3, with captions by beam search. CPU; a launch."""

from pathlib import Path

import pytest

from pretrain.checkpoints.best import read_best
from pretrain.conversion.evaluated import evaluate_source
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.records import read_evaluations
from tests.support.launch import ROOT, run_ranks
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TinyData

STEPS = [0, 2, 4]


@pytest.fixture(scope="module")
def captioning(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two ranks that learned captions for four steps."""
    folder = tmp_path_factory.mktemp("captioning")
    values = {
        "data.shards": write_scenes(folder / "captions", "caption", 16),
        "data.held-out": write_scenes(folder / "held_out", "caption", 5),
        "data.text-tokenizer": tiny_data.folder / "text_tokenizer.spm",
        "data.text-length": 8,
        "initial-weights": "None",
        "run-dir": folder / "run",
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "model.dim": 48,
        "model.ffn-dim": 64,
        "model.depth": 2,
        "model.vocab-size": 120,
        "num-steps": STEPS[-1],
        "task-samples-per-step": 4,
        "optimizer.warmup-steps": 1,
        "save-every-steps": 2,
        "evaluation.every-steps": 2,
        "evaluation.num-samples": 5,
        "evaluation.chunk-size": 2,
        "evaluation.num-beams": 2,
        "evaluation.best": "loss/caption",
        "monitors.tensorboard": "off",
    }
    arguments = [word for name, value in values.items() for word in (f"--{name}", value)]
    ended = run_ranks(2, "pretrain.finetune", ["caption_laptop", *arguments])
    assert ended.exit_codes == [0, 0], ended.stderr
    return folder / "run"


def test_figures_of_a_run_under_zero_3_are_those_of_its_checkpoint_in_one_process(captioning: Path) -> None:
    lines = read_evaluations(captioning)
    assert [line["step"] for line in lines] == STEPS
    found = lines[-1]["figures"]
    assert found.keys() == {"loss/caption", "caption/bleu4", "caption/cider"}
    assert found["loss/caption"] < lines[0]["figures"]["loss/caption"]
    subject, figures = evaluate_source(EvaluateOptions(captioning))
    assert "captions by 2 beams" in subject and "5 samples" in subject
    assert figures == pytest.approx(found, abs=1e-5)
    best = read_best(captioning / "checkpoints")
    assert best is not None and "step_00000004" in str(best)
