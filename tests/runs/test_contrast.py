"""Whole contrastive runs in real processes: from weights of pretraining, on any topology, exact after a stop. CPU."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.contrast import ContrastConfig
from pretrain.conversion.evaluated import evaluate_source
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.records import read_evaluations
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_STOPPED
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TEXT_LENGTH, TinyData

NUM_STEPS = 6
NUM_PAIRS = 8


def overrides(data: TinyData, start: Path, run_dir: Path) -> list[str]:
    """Return arguments for a run of six steps from a run of `demo` on the tiny data."""
    values = {
        "initial-weights": start,
        "data.pairs": data.folder / "pairs",
        "data.text-tokenizer": data.folder / "text_tokenizer.spm",
        "run-dir": run_dir,
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "model.dim": 48,
        "model.ffn-dim": 64,
        "model.drop-path-rate": 0.2,
        "num-steps": NUM_STEPS,
        "pairs-per-step": NUM_PAIRS,
        "optimizer.warmup-steps": 2,
        "save-every-steps": 3,
        "monitors.tensorboard": "off",
        "monitors.norms-every-steps": 2,
        "evaluation.every-steps": 0,
    }
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)] + ["--log-sample-keys"]


def masked(data: TinyData) -> list[str]:
    """Return arguments for masked data modeling beside the contrastive loss, on samples of all kinds."""
    values = {
        "masked-data-weight": 0.5,
        "visual-tokenizer": data.folder / "visual_tokenizer.pt",
        "data.images": data.folder / "images",
        "data.texts": data.folder / "texts",
        "data.text-length": TEXT_LENGTH,
        "images-per-step": 4,
        "texts-per-step": 4,
        "objective.min-block-patches": 3,
        "objective.whole-image-share": 0.5,
    }
    return [str(word) for name, value in values.items() for word in (f"--{name}", value)]


def train(num_ranks: int, data: TinyData, start: Path, run_dir: Path, *extra: object, **options: Any) -> Ended:
    arguments = ["contrast_demo", *overrides(data, start, run_dir), *extra]
    return run_ranks(num_ranks, "pretrain.contrast", arguments, **options)


def figures(run_dir: Path) -> list[dict[str, Any]]:
    log = read_log(run_dir)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    return [{name: record[name] for name in ("loss", "losses", "contrast", "grad_norm", "keys")} for record in log]


def check_close(run_dir: Path, other: Path) -> None:
    for here, there in zip(figures(run_dir), figures(other), strict=True):
        assert sorted(here["keys"]) == sorted(there["keys"])
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-4)
        assert here["losses"] == pytest.approx(there["losses"], abs=1e-4)
        assert here["contrast"]["scale"] == pytest.approx(there["contrast"]["scale"], abs=1e-4)
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-3)


@pytest.fixture(scope="module")
def undisturbed(two_ranks: Path, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two ranks and two micro-steps. Read only."""
    run_dir = tmp_path_factory.mktemp("contrast") / "run"
    ended = train(2, tiny_data, two_ranks, run_dir, "--gradient-accumulation-steps", 2)
    assert ended.exit_codes == [0, 0], ended.stderr
    started = (
        f"starts from the weights in {find_checkpoint(two_ranks).folder}; initialized, as they lack it: vision_head"
    )
    assert started in ended.stdout[0]
    assert "contrast: softmax over 8 pairs, texts of up to 20 tokens" in ended.stdout[0]
    return run_dir


def test_a_run_starts_from_pretraining_learns_and_leaves_what_it_does_not_train(
    undisturbed: Path, two_ranks: Path
) -> None:
    records = read_log(undisturbed)
    assert all(set(record["losses"]) == {"contrastive"} and not record["skipped"] for record in records)
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(0 <= record["contrast"]["image_to_text"] <= 1 for record in records)
    assert records[0]["contrast"]["scale"] == pytest.approx(1 / 0.07, rel=1e-4)
    assert {"vision", "language", "vision_language", "attention", "rest"} == set(records[0]["grad_norms"])
    assert records[0]["grad_norms"]["vision_language"] == 0 < records[0]["grad_norms"]["vision"]
    checkpoint = find_checkpoint(undisturbed)
    assert isinstance(checkpoint.config, ContrastConfig)
    before, after = (dict(checkpoint_weights(each)) for each in (find_checkpoint(two_ranks), checkpoint))
    kept = {name for name, tensor in before.items() if name in after and torch.equal(tensor, after[name])}
    assert kept == {name for name in before if "vision_language" in name} | {"encoder.vision_embed.mask_token"}
    assert before.keys() - after.keys() == {name for name in before if name.startswith(("mim_head.", "mlm_head."))}
    assert after.keys() - before.keys() == {"vision_head.weight", "language_head.weight", "logit_scale"}
    assert after["logit_scale"].shape == ()


@pytest.mark.slow
def test_sigmoid_and_masked_data_modeling_beside_it_train_every_expert(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    ended = train(2, tiny_data, two_ranks, run_dir, "--loss", "sigmoid", *masked(tiny_data))
    assert ended.exit_codes == [0, 0], ended.stderr
    records = read_log(run_dir)
    assert set(records[0]["losses"]) == {"contrastive", "mim", "mlm", "mvlm_image", "mvlm_text"}
    assert records[0]["contrast"]["scale"] == pytest.approx(10, rel=1e-4)
    assert records[-1]["loss"] < records[0]["loss"]
    before = dict(checkpoint_weights(find_checkpoint(two_ranks)))
    after = dict(checkpoint_weights(find_checkpoint(run_dir)))
    assert after["logit_bias"].shape == () and after["logit_bias"].item() != -10
    assert [name for name, tensor in before.items() if torch.equal(tensor, after[name])] == []


@pytest.mark.slow
def test_labelled_images_are_trained_and_evaluated_by_the_names_of_their_classes(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Also on another topology: equal texts are found across ranks and micro-steps."""
    shards, templates = tmp_path / "classes", tmp_path / "templates.txt"
    write_scenes(shards, "classify", count=48)
    templates.write_text("a {}\nthe {} here\n")
    changes: list[object] = ["--data.pairs", shards, "--data.templates", templates, "--pairs-per-step", 16]
    changes += [
        "--evaluation.pairs",
        None,
        "--evaluation.labelled",
        shards,
        "--evaluation.every-steps",
        3,
        "--evaluation.num-labelled",
        40,
    ]
    runs = {ranks: tmp_path / f"{ranks}_ranks" for ranks in (2, 1)}
    for ranks, run_dir in runs.items():
        ignoring = ["--equal-texts", "ignored", "--gradient-accumulation-steps", 3 - ranks]
        ended = train(ranks, tiny_data, two_ranks, run_dir, *changes, *ignoring)
        assert set(ended.exit_codes) == {0}, ended.stderr
        assert "16 pairs, texts of up to 20 tokens, equal ones ignored" in ended.stdout[0]
    check_close(runs[1], runs[2])
    counting = tmp_path / "counting"
    assert train(1, tiny_data, two_ranks, counting, *changes).exit_codes == [0]
    losses = [read_log(run_dir)[0]["loss"] for run_dir in (counting, runs[1])]
    assert losses[0] > losses[1] + 1e-4  # of 16 images some share their class
    found = read_evaluations(runs[2])[-1]["figures"]
    assert {"zero_shot/acc1", "zero_shot/acc5"} <= found.keys()
    line, again = evaluate_source(EvaluateOptions(runs[2]))
    assert again["zero_shot/acc1"] == found["zero_shot/acc1"]
    assert "40 images of 30 classes" in line and "2 texts for each" in line


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "micro_steps"), [(1, 1), (1, 4), (2, 1), (4, 2)])
def test_another_topology_sees_the_same_samples_and_losses(
    num_ranks: int, micro_steps: int, undisturbed: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    ended = train(num_ranks, tiny_data, two_ranks, tmp_path, "--gradient-accumulation-steps", micro_steps)
    assert set(ended.exit_codes) == {0}, ended.stderr
    check_close(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_another_stage_trains_alike(
    stage: int, undisturbed: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    changes = ["--deepspeed-config", path, "--gradient-accumulation-steps", 2]
    ended = train(2, tiny_data, two_ranks, tmp_path / "run", *changes)
    assert ended.exit_codes == [0, 0], ended.stderr
    check_close(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(
    undisturbed: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"

    def stop(processes: list[RankProcess]) -> None:
        log = run_dir / LOG_NAME
        while processes[0].poll() is None and not (log.exists() and len(read_log(run_dir)) >= 2):
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGTERM)

    arguments = ["--gradient-accumulation-steps", 2]
    stopped = train(2, tiny_data, two_ranks, run_dir, *arguments, while_running=stop)
    assert stopped.exit_codes == [EXIT_STOPPED, EXIT_STOPPED], stopped.stderr
    assert 2 <= len(read_log(run_dir)) < NUM_STEPS
    resumed = train(2, tiny_data, two_ranks, run_dir, *arguments)
    assert resumed.exit_codes == [0, 0], resumed.stderr
    assert figures(run_dir) == figures(undisturbed)
    weights = (dict(checkpoint_weights(find_checkpoint(each))) for each in (run_dir, undisturbed))
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True))


@pytest.mark.slow
def test_a_run_goes_on_with_other_ranks_micro_steps_and_stage(
    undisturbed: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, path = shutil.copytree(undisturbed, tmp_path / "run"), tmp_path / "zero.json"
    shutil.rmtree(run_dir / "checkpoints" / f"step_{NUM_STEPS:08d}")
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    ended = train(1, tiny_data, two_ranks, run_dir, "--deepspeed-config", path)
    assert ended.exit_codes == [0], ended.stderr
    assert "continues at step 3" in ended.stdout[0]
    check_close(run_dir, undisturbed)


@pytest.mark.slow
def test_a_resumed_run_needs_its_initial_weights_no_more(
    undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / f"step_{NUM_STEPS:08d}")
    ended = train(2, tiny_data, tmp_path / "gone", run_dir, "--gradient-accumulation-steps", 2)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert figures(run_dir) == figures(undisturbed)
