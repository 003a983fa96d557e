"""Losses of fifty steps of a small run, kept next to this file: an optimization of a step must not change them.

    python -m tests.golden.fifty_steps RUN     # rewrites them: only if the losses are meant to change

RUN is paper, pretraining with objective.whole_image_share 0, whole_images, that with 0.5 as in the recipes, or vqa, a
finetuning. All randomness is seeded, so losses differ by rounding only: between machines, torch versions and orders of
summation.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch

from data_pipeline.samples.scene_tasks import LABELS
from pretrain.run.run_log import read_log
from tests.support.launch import ROOT, run_ranks
from tests.support.task_data import write_scenes
from tests.support.tiny_run import TinyData, write_tiny_data

Golden = Literal["paper", "whole_images", "vqa"]
GOLDEN: dict[Golden, Path] = {
    "paper": Path(__file__).with_suffix(".json"),
    "whole_images": Path(__file__).with_name("fifty_steps_whole_images.json"),
    "vqa": Path(__file__).with_name("fifty_steps_vqa.json"),
}
"""Files of losses by run."""
NUM_STEPS = 50


def main() -> None:
    golden_file = GOLDEN[run := cast(Golden, sys.argv[1])]
    with tempfile.TemporaryDirectory() as folder:
        data = write_tiny_data(Path(folder))
        losses = fifty_steps(data, Path(folder) / "run", run)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    golden = {"commit": commit, "torch": torch.__version__, "hardware": platform.machine(), "losses": losses}
    golden_file.write_text(json.dumps(golden, indent=1) + "\n")


def fifty_steps(
    data: TinyData, run_dir: Path, run: Golden, extra: Sequence[object] = (), num_ranks: int = 2
) -> list[float]:
    """Return the losses of a run in float32; extra: overrides."""
    if run == "vqa":
        module, arguments = "pretrain.finetune", finetuning(data, run_dir)
    else:
        share = 0.5 if run == "whole_images" else 0
        sizes = ["--model.num-vl-layers", 1, "--objective.whole-image-share", share]
        module, arguments = "pretrain.train", ["demo", *data.overrides(run_dir), *sizes]
    same = ["--num-steps", NUM_STEPS, "--precision", "float32"]
    ended = run_ranks(num_ranks, module, [*arguments, *same, *extra])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    return [record["loss"] for record in read_log(run_dir)]


def finetuning(data: TinyData, run_dir: Path) -> list[object]:
    """Return the recipe and the overrides of a small finetuning from random weights, on shards beside the run."""
    shards = run_dir.with_name("questions")
    if not shards.exists():
        write_scenes(shards, "vqa", count=60)
    values = {
        "initial-weights": None,
        "data.shards": shards,
        "data.held-out": None,
        "data.text-tokenizer": data.folder / "text_tokenizer.spm",
        "num-classes": len(LABELS["vqa"]),
        "run-dir": run_dir,
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "model.dim": 48,
        "model.ffn-dim": 64,
        "model.drop-path-rate": 0.2,
        "task-samples-per-step": 8,
        "optimizer.peak-lr": 1e-3,
        "optimizer.warmup-steps": 2,
        "head-lr-factor": 2,
        "save-every-steps": 100,
        "monitors.tensorboard": "off",
        "evaluation.every-steps": 0,
    }
    return ["vqa_laptop", *(word for name, value in values.items() for word in (f"--{name}", value))]


if __name__ == "__main__":
    main()
