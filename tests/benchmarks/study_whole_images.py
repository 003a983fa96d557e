"""python -m tests.benchmarks.study_whole_images [--quick]: can a pretrained network use a whole image?

The recipe `laptop`, with half of its texts, learns 1,914 concepts as six sets of emoji draw them, with whole images in
training and without, on three seeds. It is then evaluated on a seventh artist's pictures of the same concepts: masked
words with the image whole and with patches hidden as in training, hidden patches, and the concept's group by a linear
probe on features of the whole image.

Each run has one core, and two run at once. It needs matplotlib. Ends with a picture and a line of figures, the means
over the seeds; those of each seed are printed before. `..._before` is the same recipe with no whole images, the
paper's setting.
"""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from torch import Tensor

from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.features import probe_accuracy
from pretrain.evaluation.held_out import forward_of, image_inputs, read_held_out, targets_of
from pretrain.evaluation.masked_patches import evaluate_masked_patches
from pretrain.evaluation.masked_words import evaluate_masked_words
from pretrain.evaluation.options import MaskedPatchesOptions, MaskedWordsOptions
from pretrain.jobs.visual_tokens import network_view
from pretrain.recipes.small import laptop
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.benchmarks.workers import map_or_stop
from tests.support.launch import python_path

ROOT = Path(__file__).parents[2]
PACKAGES = {"matplotlib": "matplotlib"}
PICTURE = ROOT / "docs" / "images" / "whole_images.png"
VOCABULARY = 3500
SHARES = {"before": 0.0, "after": laptop().objective.whole_image_share}
"""Share of pairs with a whole image in the two recipes."""
CORES = 2
NUM_PROBED = 2000
"""Number of pictures that a probe is trained on, and the most that it is tested on."""
CHUNK = 64


@dataclass(frozen=True)
class StudyOptions:
    """Whole images in training and their effect."""

    source: Path = ROOT.parent / "shared" / "data" / "emoji_artists"
    """Folder with concepts.jsonl and a folder of pictures per artist."""
    held_out: str = "twemoji"
    """Artist whose pictures are held out for evaluation."""
    out: Path | None = None
    """Folder for shards and runs; finished runs there are reused. None: a temporary folder."""
    num_steps: int = 1300
    """Training steps of each run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, each of which fixes the order of the data, the masks and the initial weights."""
    max_pairs: int = 1000
    """Number of pairs of the held-out artist on which words and patches are evaluated."""
    quick: bool = False
    """Run for minutes; the figures mean little."""
    append: bool = False
    """Write the figures into RESULTS.md and the picture into docs/images."""


@dataclass(frozen=True)
class Reading:
    """Accuracies, 0..1, of a network on pictures that it has not seen."""

    right_whole: float
    wrong_whole: float
    right_masked: float
    wrong_masked: float
    commonest: float
    """Accuracy of always guessing the most common word."""
    patches: float
    """Accuracy of the codes of hidden patches."""
    probe: float
    """Accuracy of the concept's group, by a linear probe."""


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    if not (options.source / "concepts.jsonl").is_file():
        sys.exit(f"error: {options.source} has no concepts.jsonl; docs/whole_images.md says what --source needs")
    with tempfile.TemporaryDirectory() as temporary:
        study(options, (options.out or Path(temporary)).resolve())


def study(options: StudyOptions, out: Path) -> None:
    num_steps, seeds = (40, options.seeds[:1]) if options.quick else (options.num_steps, options.seeds)
    prepare(options, out)
    runs = [(name, seed) for seed in seeds for name in SHARES]
    # processes, not threads: while a checkpoint is read, torch's unpickler allows classes in the whole process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        arguments = ((name, seed, num_steps, options.max_pairs, out) for name, seed in runs)
        readings = dict(zip(runs, map_or_stop(pool, CORES, train_and_read, *zip(*arguments, strict=True)), strict=True))
    by_name = {name: [readings[name, seed] for seed in seeds] for name in SHARES}
    draw(by_name, PICTURE if options.append else out / PICTURE.name)
    means = {name: mean_of(found) for name, found in by_name.items()}
    figures = {f"{key}{'_before' * (name == 'before')}": value for name in reversed(SHARES)
               for key, value in asdict(means[name]).items()}  # fmt: skip
    if options.append:
        append_results("study_whole_images", figures)
    print(line(figures))


def train_and_read(name: str, seed: int, num_steps: int, max_pairs: int, out: Path) -> Reading:
    """Train one network, unless it is finished, and evaluate it."""
    folder = out / f"{name}_{seed}"
    overrides = {
        "objective.whole-image-share": SHARES[name],
        "seed": seed,
        "num-steps": num_steps,
        "texts-per-step": 4,
        "optimizer.warmup-steps": min(60, num_steps // 2),
        "save-every-steps": num_steps,
        "run-dir": folder,
        "model.vocab-size": VOCABULARY + 2,
        "activation-checkpointing.mode": "none",
        "deepspeed-config": ROOT / "ds_configs" / "zero1.json",
    }
    words = [word for option, value in overrides.items() for word in (f"--{option}", value)]
    command("pretrain.train", "laptop", *words, folder=out)
    reading = read(folder, out, max_pairs)
    print(f"{name}, seed {seed}: {line(asdict(reading))}", flush=True)
    return reading


def prepare(options: StudyOptions, out: Path) -> None:
    """Write the data that the recipe `laptop` expects, and shards of the held-out artist's pairs."""
    concepts = [json.loads(text) for text in (options.source / "concepts.jsonl").read_text().splitlines()]
    split = json.loads((options.source / "split.json").read_text())
    artists = {artist for artist in split["training_artists"] if artist not in drawn_alike(split, options.held_out)}
    training, held_out = (
        [
            {"image": str(picture), "caption": concept["labels"]["en"]}
            for concept in concepts
            for artist in sorted(chosen)
            if (picture := options.source / artist / f"{concept['hexcode']}.webp").is_file()
        ]
        for chosen in (artists, {options.held_out})
    )
    random.Random(0).shuffle(training)
    random.Random(0).shuffle(held_out)
    texts = [{"text": f"{concept['labels']['en']}: {', '.join(concept['tags']['en'])}."} for concept in concepts]
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    artist = data / "held_out_artist"
    if artist.is_file() and artist.read_text() != f"{options.source} {options.held_out}":
        sys.exit(f"error: {out} holds a study of {artist.read_text()}; give another --out")
    artist.write_text(f"{options.source} {options.held_out}")
    for name, lines in (("training", training), ("held_out", held_out), ("texts", texts)):
        (data / f"{name}.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in lines))
    groups = {concept["labels"]["en"]: concept["group"] for concept in concepts}
    (data / "groups.json").write_text(json.dumps(groups))
    if not (data / "tokenizer.spm").is_file():
        command("data_pipeline.train_text_tokenizer", "data/tokenizer.spm", "pair=data/training.jsonl",
                "text=data/texts.jsonl", "--vocab-size", VOCABULARY, folder=out)  # fmt: skip
    everything = ("--held-out-fraction", 0)
    for kind, source, folder in (("image", "training", "images"), ("pair", "training", "pairs"),
                                 ("pair", "held_out", "held_out_pairs")):  # fmt: skip
        command("data_pipeline.write_shards", kind, f"data/{source}.jsonl", f"data/{folder}", *everything, folder=out)
    command("data_pipeline.write_shards", "text", "data/texts.jsonl", "data/texts", *everything, "--text-tokenizer",
            "data/tokenizer.spm", "--text-length", laptop().data.text_length, folder=out)  # fmt: skip
    command("pretrain.train_visual_tokenizer", "laptop", folder=out)


def drawn_alike(split: dict[str, Any], artist: str) -> set[str]:
    """Return the artist and those with the same drawings in another finish."""
    return {artist}.union(*(drawings for drawings in split["same_drawings"] if artist in drawings))


def command(module: str, *arguments: object, folder: Path) -> None:
    """Run one command of the project on one core. Exits with its error output if it fails."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    print("$ " + " ".join(words[1:]), flush=True)
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"error: {module} ended with {ended.returncode}: {ended.stderr[-2000:]}")


def read(run: Path, out: Path, max_pairs: int) -> Reading:
    """Evaluate a run on the held-out artist."""
    pairs = out / "data" / "held_out_pairs"
    words = evaluate_masked_words(MaskedWordsOptions(run, pairs, max_pairs))
    patches = evaluate_masked_patches(
        MaskedPatchesOptions(run, pairs, out / laptop().visual_tokenizer, max_images=max_pairs)
    )
    return Reading(
        right_whole=words.right_image.accuracy,
        wrong_whole=words.wrong_image.accuracy,
        right_masked=words.right_masked.accuracy,
        wrong_masked=words.wrong_masked.accuracy,
        commonest=words.commonest,
        patches=patches.accuracy,
        probe=probe(run, out),
    )


@torch.no_grad()
def probe(run: Path, out: Path) -> float:
    """Return the accuracy of a ridge regression from features of whole images to the concepts' groups.

    It is trained on pictures of the artists that the network has seen, and tested on the held-out artist's.
    """
    checkpoint = find_checkpoint(run, PretrainConfig)
    model, config = load_model(checkpoint), checkpoint.config
    groups = json.loads((out / "data" / "groups.json").read_text())
    names = sorted(set(groups.values()))
    features, labels = [], []
    for folder in ("pairs", "held_out_pairs"):
        images, captions = read_held_out(out / "data" / folder, config.data, config.model.image_size, NUM_PROBED)
        features.append(whole_image_features(model, network_view(images, config.model.image_size)))
        labels.append(torch.tensor([names.index(groups[caption]) for caption in captions]))
    (x, x_new), (y, y_new) = features, labels
    return probe_accuracy(x, y, x_new, y_new)


def whole_image_features(model: MaskedDataModel, pixels: Tensor) -> Tensor:
    """Return the class token and the mean of the patches: (B, 3, H, W) normalised pixels -> (B, 2 D)."""
    forward, features = forward_of(model), []
    for chunk in pixels.split(CHUNK):
        whole = torch.zeros(len(chunk), model.encoder.config.num_patches, dtype=torch.bool)
        inputs = image_inputs(chunk, whole)
        features.append(forward(inputs, targets_of(inputs)).features)
    return torch.cat(features)


def mean_of(readings: list[Reading]) -> Reading:
    return Reading(*(mean(values) for values in zip(*map(astuple, readings), strict=True)))


def line(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.3f}" for name, value in figures.items())


def draw(readings: dict[str, list[Reading]], path: Path) -> None:
    """Draw bars of the means over the seeds, with a dot per seed: words with the image whole and with patches hidden,
    then patches and probe."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    titles = {"before": "no whole images in training (the paper)", "after": f"{SHARES['after']:.0%} of the pairs whole"}
    panels = (
        ("masked words, an artist not seen before", {
            "right_whole": "image whole", "wrong_whole": "wrong image,\nwhole",
            "right_masked": "patches hidden\nas in training", "wrong_masked": "wrong image,\nhidden"}),
        ("hidden patches, linear probe", {
            "patches": "codes of\nhidden patches", "probe": "group by probe,\nimage whole"}),
    )  # fmt: skip
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained", width_ratios=(2, 1))
    for axis, (title, bars) in zip(axes, panels, strict=True):
        for number, (name, found) in enumerate(readings.items()):
            values = [[getattr(reading, bar) * 100 for reading in found] for bar in bars]
            places = [place + 0.4 * (number - 0.5) for place in range(len(bars))]
            axis.bar(places, list(map(mean, values)), width=0.38, label=titles[name])
            for place, seeds in zip(places, values, strict=True):
                axis.plot([place] * len(seeds), seeds, "k.", markersize=4)
        axis.set_xticks(range(len(bars)), bars.values(), fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    commonest = mean(reading.commonest for found in readings.values() for reading in found) * 100
    axes[0].axhline(commonest, color="black", linestyle="--", linewidth=1, label="always the commonest word")
    axes[0].set_ylim(0, 1.35 * axes[0].get_ylim()[1])
    axes[0].set_ylabel("% right")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
