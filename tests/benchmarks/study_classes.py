"""python -m tests.benchmarks.study_classes: classes of images that nobody here made, from raw files to top-1.

The same small network learns, from random weights and with the recipe `classify_laptop`, (A) 1,437 handwritten digits
of scikit-learn, and is asked for the 360 others, which come later in its file; (B) the groups of emoji, such as food &
drink, as the artists of a folder draw them, and is asked for those of an artist who is in no training. Everything is
done with the project's commands on one core each, two at once.

It needs scikit-learn, which holds the digits. Ends with a line of figures, shares in 0..1: top-1 of both, against the
class that is most frequent among the images asked for (..._majority) and a guess (..._chance).
"""

import multiprocessing
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image

from pretrain.evaluation.records import read_evaluations
from tests.benchmarks.easy_vqa_runs import write_shards
from tests.benchmarks.emoji_artists import EmojiArtists, write_lines, write_pictures
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.benchmarks.transfer_runs import ROOT, command, options_of

PACKAGES = {"sklearn": "scikit-learn"}
"""Packages by import name."""
EMOJI = ROOT.parent / "shared" / "data" / "emoji_artists"
HELD_OUT_ARTIST = "twemoji"
NUM_TRAINING_DIGITS = 1437
"""Four fifths of the digits, the first of them."""
DIGIT_SCALE = 4
"""Side of a digit's picture in pixels of the picture, divided by its 8 pixels."""
SETTINGS: dict[str, object] = {
    "initial-weights": None,
    "model.dim": 128,
    "model.depth": 3,
    "model.num-heads": 4,
    "model.ffn-dim": 384,
    "model.init-std": 0.135,
    "model.embed-init-std": 0.02,
    "model.drop-path-rate": 0.0,
    "layer-decay": 1.0,
    "optimizer.peak-lr": 1e-3,  # nothing is pretrained
    "head-lr-factor": 1.0,
    "deepspeed-config": ROOT / "ds_configs" / "zero1.json",
    "evaluation.num-samples": 10_000,
}
WARMUP_PART = 10
"""Warmup is this part of the steps of a run."""


@dataclass(frozen=True)
class StudyOptions:
    """Classes of digits and of emoji."""

    source: Path = EMOJI
    """Folder with concepts.jsonl, split.json and a folder of pictures per artist."""
    out: Path | None = None
    """Folder for data and runs; finished parts there are not repeated. None: a temporary folder."""
    append: bool = False
    """Write the figures into RESULTS.md."""


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        out = (options.out or Path(temporary)).resolve()
        digits, emoji = pool.submit(digits_figures, out / "digits"), pool.submit(emoji_figures, options.source, out)
        figures = {**digits.result(), **emoji.result()}
    if options.append:
        append_results("study_classes", figures)
    print(" ".join(f"{name}={value:.4f}" for name, value in figures.items()))


def digits_figures(out: Path, num_steps: int = 500) -> dict[str, float]:
    """Return top-1 on the held-out digits after training."""
    lines = write_digits(out / "pictures")
    size = {"model.image-size": 8 * DIGIT_SCALE, "model.patch-size": 8}
    return classified("digits", lines[:NUM_TRAINING_DIGITS], lines[NUM_TRAINING_DIGITS:], size, num_steps, out)


def emoji_figures(source: Path, out: Path, num_steps: int = 1200, every: int = 1) -> dict[str, float]:
    """Return top-1 on the groups of an artist's emoji after training on those of others.

    every: only each `every`-th concept is used.
    """
    artists, out = EmojiArtists(source, every), out / "emoji"
    training = artists.training_artists(HELD_OUT_ARTIST)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        write_pictures(artists, [*training, HELD_OUT_ARTIST], out / "pictures", pool)
    size = {"model.image-size": 64, "model.patch-size": 16}
    asked = emoji_lines(artists, [HELD_OUT_ARTIST])
    return classified("emoji", emoji_lines(artists, training), asked, size, num_steps, out)


def write_digits(folder: Path) -> list[dict[str, Any]]:
    """Write the pictures of all digits; return the lines of their classes, in the order of scikit-learn."""
    from sklearn.datasets import load_digits

    digits, lines = load_digits(), list[dict[str, Any]]()
    folder.mkdir(parents=True, exist_ok=True)
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        picture = Image.fromarray((pixels * (255 / 16)).astype("uint8"))
        side = 8 * DIGIT_SCALE
        picture.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        lines.append({"image": f"pictures/{number}.png", "label": str(digit)})
    return lines


def emoji_lines(artists: EmojiArtists, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the lines of the classes of all pictures of some artists."""
    return [
        {"image": f"pictures/{name}/{concept['hexcode']}.png", "label": concept["group"]}
        for name in names
        for concept in artists.drawn(name)
    ]


def classified(
    name: str,
    train: Sequence[dict[str, Any]],
    test: Sequence[dict[str, Any]],
    settings: Mapping[str, object],
    num_steps: int,
    out: Path,
) -> dict[str, float]:
    """Write shards of classes, train on them, and return the figures on those that are asked for."""
    num_classes = len({line["label"] for line in train})
    write_lines(out / "train.jsonl", random.Random(0).sample(train, len(train)))  # a run reads shards nearly in order
    write_lines(out / "test.jsonl", test)
    write_shards(out, "classes", "label", "train.jsonl")
    write_shards(out, "held_out_classes", "label", "test.jsonl", "--classes", "classes/classes.txt")
    values = SETTINGS | dict(settings) | {
        "data.shards": "classes",
        "data.held-out": "held_out_classes",
        "num-classes": num_classes,
        "num-steps": num_steps,
        "optimizer.warmup-steps": max(1, num_steps // WARMUP_PART),
        "save-every-steps": num_steps,
        "evaluation.every-steps": num_steps,
        "run-dir": "run",
    }  # fmt: skip
    command("pretrain.finetune", "classify_laptop", *options_of(values), folder=out)
    found = read_evaluations(out / "run")[-1]["figures"]
    majority = found["classify/acc_commonest"]
    return {name: found["classify/top1"], f"{name}_majority": majority, f"{name}_chance": 1 / num_classes}


if __name__ == "__main__":
    main()
