"""The data and the runs of study_transfer, by the project's commands, each with one thread.

What is complete is not repeated, and a run that was stopped goes on, unless settings have changed.
"""

import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from pretrain.recipes.small import laptop_multilingual
from tests.benchmarks.emoji_artists import (
    GRAY,
    MARGIN,
    MOST_TAGS,
    EmojiArtists,
    captions,
    text,
    write_lines,
    write_pictures,
)
from tests.support.launch import python_path

ROOT = Path(__file__).parents[2]

PIECES_PER_LANGUAGE = 2000
"""Vocabulary of the text tokenizer."""
SIDE = 56
"""Side of a picture in pixels: the smallest crop of it has the 48 that the network reads."""
CAPTION_LENGTH = laptop_multilingual().data.caption_length
"""Tokens of a caption in several languages, in both stages."""
NETWORK: dict[str, object] = {
    "model.dim": 128,
    "model.depth": 2,
    "model.num-heads": 4,
    "model.ffn-dim": 384,
    "model.num-vl-layers": 0,  # pairs then train the two experts that a dual encoder has
    "model.image-size": 48,  # half of the work at 64, for more steps
    "model.patch-size": 16,
    "model.init-std": 0.135,  # the recipe's, for this width
    "model.embed-init-std": 0.02,  # so that class token and first text token are mostly what they attend to
    "data.min-crop-scale": 0.9,  # the drawings are cut to the same place: large crops are much easier
}
"""A thirtieth of the recipe's work per image: there is time for more steps."""
VISUAL_TOKENIZER: dict[str, object] = {
    "teacher.name": "tests.support.efficientnet_teacher.efficientnet_lite0",
    "teacher.image-size": 64,
    "model.teacher-dim": 112,
    "model.patch-size": 16,
}
"""Codes of an ImageNet network's features, as the paper's are of CLIP's."""
PRETRAINING: dict[str, object] = {
    "images-per-step": 8,
    "pairs-per-step": 112,
    "texts-per-step": 8,
    "optimizer.peak-lr": 7e-4,
    "objective.caption-mask-ratio": 0.9,  # else the words around a hidden one tell more than the picture
    "objective.whole-image-share": 0.2,  # in trials better than 0.5 and 0.8
    "objective.min-block-patches": 2,
    "objective.mim-weight": 0.1,  # at 1 the gradients of image tokens, clipped with those of words, drown the latter
    "objective.mvlm-image-weight": 0.1,
}
CONTRAST: dict[str, object] = {
    "pairs-per-step": 64,
    "optimizer.peak-lr": 1e-3,
    "layer-decay": 1.0,
    "model.drop-path-rate": 0.0,  # for so few steps
}
WARMUP_PART = 10
"""Warmup is this part of the steps of a run."""
COMMON: dict[str, object] = {
    "deepspeed-config": ROOT / "ds_configs" / "zero1.json",
    "evaluation.every-steps": 0,
}
EVERYTHING = ("--held-out-fraction", 0)
"""Option of the data commands: the study has its own split."""


@dataclass(frozen=True)
class Training:
    """A dual encoder of the study."""

    name: str
    """Beginning of the name of its folder; the seed follows."""
    seed: int
    languages: tuple[str, ...]
    contrast_steps: int
    pretraining_steps: int = 0
    """Steps of masked pretraining before; 0: the contrastive stage starts from random weights."""

    def run(self, out: Path) -> Path:
        """Train, as far as it is not trained, and return the run of the contrastive stage."""
        pretrained: Path | None = None
        if self.pretraining_steps:
            pretrained = out / f"masked_{self.seed}"
            self._train("pretrain.train", recipe(self.languages), PRETRAINING, self.pretraining_steps, pretrained, out)
        run = out / f"{self.name}_{self.seed}"
        settings = CONTRAST | {"initial-weights": pretrained}
        self._train("pretrain.contrast", "contrast_laptop", settings, self.contrast_steps, run, out)
        return run

    def _train(
        self, module: str, name: str, settings: Mapping[str, object], num_steps: int, run: Path, out: Path
    ) -> None:
        """Start a run: it goes on where it was stopped, refuses other settings, and ends at once if it is complete."""
        everything = COMMON | NETWORK | dict(settings) | {
            "activation-checkpointing.mode": "none",
            "model.vocab-size": vocabulary_size(self.languages, every=1) + 2,  # with <mask>, to an even number
            "optimizer.warmup-steps": max(1, num_steps // WARMUP_PART),
            "num-steps": num_steps,
            "save-every-steps": num_steps,
            "seed": self.seed,
            "run-dir": run,
            **({} if len(self.languages) == 1 else {"data.caption-length": CAPTION_LENGTH}),
        }  # fmt: skip
        command(module, name, *options_of(everything), folder=out)


def recipe(languages: Sequence[str]) -> str:
    return "laptop" if len(languages) == 1 else "laptop_multilingual"


def vocabulary_size(languages: Sequence[str], every: int) -> int:
    """Return the number of pieces of the text tokenizer, which a part of the concepts gives fewer of.

    A sixth of the concepts has more than a sixth of the characters, each of which is a piece.
    """
    return PIECES_PER_LANGUAGE * len(languages) // min(every, 3)


def prepare(artists: EmojiArtists, held_out: str, languages: tuple[str, ...], out: Path, pool: Executor) -> None:
    """Write the data that the recipe `laptop` expects, of seen concepts and training artists alone, and all pictures.

    Exits if the folder holds the data of another study, or of other settings.
    """
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    subject = data / "subject.txt"
    wanted = (
        f"{artists.folder} without {held_out}, one concept in {artists.every}, in {' '.join(languages)}, pictures of "
        f"{SIDE} pixels on {GRAY}, {MARGIN} of what is drawn, {PIECES_PER_LANGUAGE} pieces per language, up to "
        f"{MOST_TAGS} keywords"
    )
    if subject.is_file() and subject.read_text() != wanted:
        sys.exit(f"error: {out} holds a study of {subject.read_text()}; give another --out")
    subject.write_text(wanted)
    training = artists.training_artists(held_out)
    # not compressed: reading pictures was a quarter of a step
    write_pictures(artists, [*training, held_out], data / "pictures", pool, SIDE, compress_level=0)
    write_lines(data / "pairs.jsonl", training_pairs(artists, held_out, languages))
    write_lines(data / "texts.jsonl", training_texts(artists, languages))
    tokenizer = data / "tokenizer.spm"
    if not tokenizer.is_file():
        command("data_pipeline.train_text_tokenizer", tokenizer, "pair=data/pairs.jsonl", "text=data/texts.jsonl",
                "--vocab-size", vocabulary_size(languages, artists.every), *EVERYTHING, folder=out)  # fmt: skip
    for kind, source, folder in (("image", "pairs", "images"), ("pair", "pairs", "pairs"), ("text", "texts", "texts")):
        length = ("--text-tokenizer", tokenizer, "--text-length", 64) if kind == "text" else ()
        command("data_pipeline.write_shards", kind, f"data/{source}.jsonl", f"data/{folder}", *EVERYTHING, *length,
                folder=out)  # fmt: skip
    settings = COMMON | VISUAL_TOKENIZER | {"num-steps": 300 // artists.every}
    command("pretrain.train_visual_tokenizer", "laptop", *options_of(settings), folder=out)


def training_pairs(artists: EmojiArtists, held_out: str, languages: Sequence[str]) -> list[dict[str, object]]:
    """Return an image and its captions per line: the seen concepts of the artists of training."""
    pairs: list[dict[str, object]] = [
        {"image": f"pictures/{artist}/{concept['hexcode']}.png", "caption": captions(concept, languages)}
        for artist in artists.training_artists(held_out)
        for concept in artists.drawn(artist)
        if not artists.is_unseen(concept)
    ]
    random.Random(0).shuffle(pairs)  # a run reads shards nearly in order
    return pairs


def training_texts(artists: EmojiArtists, languages: Sequence[str]) -> list[dict[str, object]]:
    """Return a text per line, of each seen concept in each language."""
    seen = (concept for concept in artists.concepts if not artists.is_unseen(concept))
    return [{"text": text(concept, language)} for concept in seen for language in languages]


def options_of(settings: Mapping[str, object]) -> list[object]:
    """Return settings as options of a command; True is that of a flag."""
    return [word for name, value in settings.items() for word in (f"--{name}", value) if word is not True]


def command(module: str, *arguments: object, folder: Path) -> None:
    """Run one command of the project with one thread. Exits with its error output if it fails."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    print("$ " + " ".join(["python", *words[1:]]), flush=True)
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"error: {module} ended with {ended.returncode}: {ended.stderr[-2000:]}")
