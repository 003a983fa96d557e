"""Whole finetuning runs in real processes: from weights of pretraining, on any topology, exact after a stop. CPU."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.samples.answers import ANSWERS_NAME, read_answers
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.write_shards import ShardOptions, write_shards
from model.config import VqaHead
from model.pretrained import load_network, read_heads
from pretrain.checkpoints.weights import checkpoint_weights, find_checkpoint
from pretrain.config.finetune import FinetuneConfig
from pretrain.conversion.convert import convert
from pretrain.conversion.options import ConvertOptions
from pretrain.conversion.verify import TOLERANCE
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_STOPPED
from tests.support.launch import ROOT, Ended, RankProcess, run_ranks
from tests.support.shared_folders import shared_folder
from tests.support.tiny_run import TinyData

NUM_STEPS = 6
NUM_SAMPLES = 8
TASKS: tuple[Task, ...] = ("vqa", "nlvr2", "caption", "classify")
CAPTIONS = ["--drop-worst-share", 0.2, "--drop-worst-after", 3, "--label-smoothing", 0.1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with sixty samples of every task, and twenty that are held out. Read only."""

    def write(folder: Path) -> None:
        for task in TASKS:
            kind, held_out = TASK_KINDS[task], folder / f"held_out_{task}"
            write_shards(ShardOptions(kind, "scenes:60", folder / task, samples_per_shard=9, num_workers=1))
            write_shards(ShardOptions(kind, "scenes:20", held_out, split="held_out", num_workers=1))

    with shared_folder(tmp_path_factory, "task_shards", write) as folder:
        yield folder


def finetune(
    num_ranks: int,
    task: Task,
    shards: Path,
    data: TinyData,
    start: Path | None,
    run_dir: Path,
    *extra: object,
    **options: Any,
) -> Ended:
    """Finetune six steps from a run of `demo` on the tiny data."""
    values = {
        "initial-weights": start,
        "data.shards": shards / task,
        "data.held-out": shards / f"held_out_{task}",
        "run-dir": run_dir,
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "model.dim": 48,
        "model.ffn-dim": 64,
        "model.depth": 3,
        "model.image-size": 64,  # of 48 in pretraining: positions are interpolated
        "model.vocab-size": 144,
        "model.max-text-length": 32,
        "model.drop-path-rate": 0.2,
        "num-steps": NUM_STEPS,
        "task-samples-per-step": NUM_SAMPLES,
        "optimizer.warmup-steps": 2,
        "save-every-steps": 3,
        "monitors.tensorboard": "off",
        "monitors.norms-every-steps": 2,
        "evaluation.every-steps": 0,
    }
    if task != "classify":
        values["data.text-tokenizer"] = data.folder / "text_tokenizer.spm"
    if TASK_KINDS[task] in LABELS:
        values["num-classes"] = len(LABELS[TASK_KINDS[task]])
    words = [str(word) for name, value in values.items() for word in (f"--{name}", value)]
    arguments = [f"{task}_laptop", *words, "--log-sample-keys", *extra]
    return run_ranks(num_ranks, "pretrain.finetune", arguments, **options)


def figures(run_dir: Path) -> list[dict[str, Any]]:
    log = read_log(run_dir)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    return [{name: record.get(name) for name in ("loss", "losses", "task", "grad_norm", "keys")} for record in log]


def check_close(run_dir: Path, other: Path) -> None:
    for here, there in zip(figures(run_dir), figures(other), strict=True):
        assert sorted(here["keys"]) == sorted(there["keys"])
        assert here["loss"] == pytest.approx(there["loss"], abs=1e-4)
        assert here["task"] == (there["task"] and pytest.approx(there["task"], abs=1e-4))
        assert here["grad_norm"] == pytest.approx(there["grad_norm"], rel=1e-3)


def undisturbed(task: Task, tmp_path_factory: pytest.TempPathFactory, *arguments: Any) -> Path:
    run_dir = tmp_path_factory.mktemp(task) / "run"
    ended = finetune(2, task, *arguments[:3], run_dir, "--gradient-accumulation-steps", 2, *arguments[3:])
    assert ended.exit_codes == [0, 0], ended.stderr
    return run_dir


@pytest.fixture(scope="module")
def answers(shards: Path, two_ranks: Path, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of vqa of two ranks and two micro-steps. Read only."""
    every = ["--evaluation.every-steps", 3, "--optimizer.ema-decay", 0.9, "--head-lr-factor", 2]
    return undisturbed("vqa", tmp_path_factory, shards, tiny_data, two_ranks, *every)


@pytest.fixture(scope="module")
def captions(shards: Path, two_ranks: Path, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of captions, whose last steps leave out the worst words. Read only."""
    return undisturbed("caption", tmp_path_factory, shards, tiny_data, two_ranks, *CAPTIONS)


def test_a_run_starts_from_pretraining_learns_and_keeps_its_answers(
    answers: Path, two_ranks: Path, shards: Path
) -> None:
    records = read_log(answers)
    assert all(set(record["losses"]) == {"vqa"} and not record["skipped"] for record in records)
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(0 <= record["task"]["score"] <= 1 for record in records)
    evaluations = [json.loads(line) for line in (answers / "evaluations.jsonl").read_text().splitlines()]
    assert [(line["step"], line["weights"]) for line in evaluations] == [
        (step, weights) for step in (0, 3, 6) for weights in ("raw", "ema")
    ]
    checkpoint = find_checkpoint(answers)
    assert isinstance(checkpoint.config, FinetuneConfig) and checkpoint.config.heads == VqaHead(len(LABELS["vqa"]))
    assert read_answers(checkpoint.folder / ANSWERS_NAME) == LABELS["vqa"]
    assert checkpoint.data_fingerprints.keys() == {"vqa", "text tokenizer", "answers", "initial weights"}
    before, after = (dict(checkpoint_weights(find_checkpoint(each))) for each in (two_ranks, answers))
    names = {name.split(".")[0] for name in after}
    assert names == {"encoder", "pooler", "head"}
    untouched = {name for name in after if name in before and torch.equal(before[name], after[name])}
    last = "encoder.blocks.2.experts"
    assert {name for name in untouched if "norm" not in name and "bias" not in name} == {
        "encoder.vision_embed.mask_token",
        *(f"{last}.{expert}.{matrix}.weight" for expert in ("vision", "language") for matrix in ("fc1", "fc2")),
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["nlvr2", "classify"])
def test_every_task_trains_and_is_evaluated_from_microsofts_file_or_random_weights(
    task: Task, shards: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    mixing = ["--mixing.mixup", 0.8, "--mixing.cutmix", 1.0] if task == "classify" else []
    evaluated = ["--evaluation.every-steps", 3]
    ended = finetune(2, task, shards, tiny_data, None, tmp_path / "run", *mixing, *evaluated)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "starts from random weights" in ended.stderr[0]
    assert ("task" in read_log(tmp_path / "run")[0]) == (task == "nlvr2")
    assert "acc" in (tmp_path / "run" / "evaluations.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("num_ranks", "micro_steps"), [(1, 1), (1, 4), (2, 1), (4, 2)])
def test_another_topology_sees_the_same_samples_and_losses(
    num_ranks: int, micro_steps: int, captions: Path, shards: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    changes = [*CAPTIONS, "--gradient-accumulation-steps", micro_steps]
    ended = finetune(num_ranks, "caption", shards, tiny_data, two_ranks, tmp_path, *changes)
    assert set(ended.exit_codes) == {0}, ended.stderr
    check_close(tmp_path, captions)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_another_stage_trains_alike(
    stage: int, captions: Path, shards: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    changes = [*CAPTIONS, "--deepspeed-config", path, "--gradient-accumulation-steps", 2]
    ended = finetune(2, "caption", shards, tiny_data, two_ranks, tmp_path / "run", *changes)
    assert ended.exit_codes == [0, 0], ended.stderr
    check_close(tmp_path / "run", captions)


@pytest.mark.slow
def test_stopped_and_resumed_equals_undisturbed_to_the_bit(
    captions: Path, shards: Path, two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"

    def stop(processes: list[RankProcess]) -> None:
        log = run_dir / LOG_NAME
        while processes[0].poll() is None and not (log.exists() and len(read_log(run_dir)) >= 2):
            time.sleep(0.005)
        processes[1].send_signal(signal.SIGTERM)

    changes = [*CAPTIONS, "--gradient-accumulation-steps", 2]
    stopped = finetune(2, "caption", shards, tiny_data, two_ranks, run_dir, *changes, while_running=stop)
    assert stopped.exit_codes == [EXIT_STOPPED, EXIT_STOPPED], stopped.stderr
    assert 2 <= len(read_log(run_dir)) < NUM_STEPS
    resumed = finetune(2, "caption", shards, tiny_data, two_ranks, run_dir, *changes)
    assert resumed.exit_codes == [0, 0], resumed.stderr
    assert figures(run_dir) == figures(captions)
    weights = (dict(checkpoint_weights(find_checkpoint(each))) for each in (run_dir, captions))
    assert all(torch.equal(one, other) for one, other in zip(*(each.values() for each in weights), strict=True))


@pytest.mark.slow
def test_a_run_goes_on_with_other_ranks_micro_steps_and_stage_and_without_its_initial_weights(
    captions: Path, shards: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir, path = shutil.copytree(captions, tmp_path / "run"), tmp_path / "zero.json"
    shutil.rmtree(run_dir / "checkpoints" / f"step_{NUM_STEPS:08d}")
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    changes = [*CAPTIONS, "--deepspeed-config", path]
    ended = finetune(1, "caption", shards, tiny_data, tmp_path / "gone", run_dir, *changes)
    assert ended.exit_codes == [0], ended.stderr
    assert "continues at step 3" in ended.stdout[0]
    check_close(run_dir, captions)


def test_a_run_is_converted_to_microsofts_format_and_back_with_its_answers(answers: Path, tmp_path: Path) -> None:
    """For other images and without unused words, as raw weights and as their moving average."""
    raw = convert(ConvertOptions(answers, tmp_path / "theirs", image_size=96, trim_vocab=True))
    ema = convert(ConvertOptions(answers, tmp_path / "ema", to="safetensors", weights="ema"))
    for converted in (raw, ema):
        assert converted.largest_difference is not None and converted.largest_difference <= TOLERANCE
        assert converted.card["heads"] == {"task": "vqa", "num_answers": len(LABELS["vqa"])}
        assert read_answers(converted.path.parent / ANSWERS_NAME) == LABELS["vqa"]
    again = convert(ConvertOptions(raw.path, tmp_path / "again", from_="beit3"))
    assert read_heads(tmp_path / "again") == VqaHead(len(LABELS["vqa"])) and again.largest_difference is not None
    assert load_network(tmp_path / "again").encoder.config.image_size == 96
    with pytest.raises(ValueError, match="answer2label.txt is the list of other weights; give another folder"):
        (tmp_path / "ema" / ANSWERS_NAME).write_text("another")
        convert(ConvertOptions(answers, tmp_path / "ema", to="safetensors", weights="ema"))
