"""The data and the runs of study_easy_vqa, by the project's commands, each on one core.

What is finished is not repeated, and a run that was stopped goes on. Paths are those of the recipe `easy_vqa`, relative
to the folder of the study.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.samples.answers import ANSWERS_NAME
from data_pipeline.shards.index import INDEX_NAME
from pretrain.config.finetune import FinetuneConfig
from pretrain.evaluation.records import read_evaluations
from pretrain.recipes import FINETUNE_RECIPES
from tests.benchmarks.easy_vqa_questions import Question, Side
from tests.benchmarks.transfer_runs import EVERYTHING, ROOT, command, options_of

NUM_PIECES = 142
"""Vocabulary of the text tokenizer: all words are whole. With <pad> and <mask> it is the recipe's."""
AS_CAPTIONS = ("--caption-column", "question", *EVERYTHING)
"""Options of the data commands by which questions are captions."""
NETWORK = ("dim", "depth", "num_heads", "ffn_dim", "num_vl_layers", "image_size", "patch_size", "vocab_size",
           "max_text_length", "init_std", "embed_init_std")  # fmt: skip
"""Fields of the recipe's network that masked pretraining has to share."""
QUESTIONS: dict[Side, str] = {"train": "data/train.jsonl", "test": "data/test.jsonl"}
DESCRIPTIONS = "data/descriptions.jsonl"
"""Training questions that say something of their image: the captions of pretraining."""
PAIRS, IMAGES, VISUAL_TOKENIZER = "data/easy_vqa_pairs", "data/easy_vqa_images", "data/easy_vqa_visual_tokenizer.pt"
SCRATCH = Path("runs/easy_vqa_scratch")
CODES: dict[str, object] = {
    "data.images": IMAGES,
    "out": VISUAL_TOKENIZER,
    "run-dir": "runs/easy_vqa_visual_tokenizer",
    "evaluation.every-steps": 0,
}
"""Settings of the visual tokenizer, beside the recipe laptop's."""
PRETRAINING: dict[str, object] = {
    "data.images": IMAGES,
    "data.pairs": PAIRS,
    "visual-tokenizer": VISUAL_TOKENIZER,
    "images-per-step": 16,
    "pairs-per-step": 112,
    "texts-per-step": 0,
    "data.min-crop-scale": 0.8,
    "data.color-jitter": 0.0,  # colors are asked for
    "data.horizontal-flip": True,  # no question asks for a side
    "objective.min-block-patches": 2,
    "objective.caption-mask-ratio": 0.6,
    "objective.whole-image-share": 0.8,  # a few pixels tell one shape from another
    # shapes are learned from words: at weights of 1 the gradients of images drown theirs, and "circle" stays a guess
    "objective.mim-weight": 0.05,
    "objective.mvlm-image-weight": 0.05,
    "activation-checkpointing.mode": "none",
}
"""Settings of masked pretraining, beside the recipe laptop's and the network of easy_vqa."""
WARMUP_PART = 10
"""Warmup is this part of the steps of a run."""


@dataclass(frozen=True)
class Steps:
    """Steps of the study's runs."""

    visual_tokenizer: int
    pretraining: int
    finetuning: int
    per_epoch: int
    """Steps of finetuning after each of which the network is asked the test questions."""


def recipe() -> FinetuneConfig:
    return FINETUNE_RECIPES["easy_vqa"]()


def prepare(questions: Mapping[Side, Sequence[Question]], out: Path, pool: Executor) -> None:
    """Write the text tokenizer and all shards."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for side, path in QUESTIONS.items():
        write_questions(out / path, questions[side])
    write_questions(out / DESCRIPTIONS, [question for question in questions["train"] if question.describes])
    data, source = recipe().data, QUESTIONS["train"]
    assert data.text_tokenizer is not None and data.held_out is not None
    if not (out / data.text_tokenizer).is_file():
        command("data_pipeline.train_text_tokenizer", data.text_tokenizer, f"pair={source}", *AS_CAPTIONS,
                "--vocab-size", NUM_PIECES, "--model-type", "bpe", folder=out)  # fmt: skip
    answers = f"{data.shards[0]}/{ANSWERS_NAME}"
    shards = [
        pool.submit(write_shards, out, data.shards[0], "vqa", source),
        pool.submit(write_shards, out, PAIRS, "pair", DESCRIPTIONS, *AS_CAPTIONS),
        pool.submit(write_shards, out, IMAGES, "image", source, "--deduplicate", *EVERYTHING),
    ]
    shards[0].result()
    shards.append(pool.submit(write_shards, out, data.held_out, "vqa", QUESTIONS["test"], "--answers", answers))
    for written in shards:
        written.result()


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    path.write_text("".join(question.line(number) for number, question in enumerate(questions)))


def write_shards(out: Path, folder: str, kind: str, source: str, *options: object) -> None:
    if not (out / folder / INDEX_NAME).is_file():
        command("data_pipeline.write_shards", kind, source, folder, *options, "--num-workers", 1, folder=out)


def pretrain(steps: Steps, out: Path) -> None:
    """Train the visual tokenizer, then the network of the recipe by masked data modeling."""
    network = recipe().model
    codes = CODES | {
        "model.image-size": network.image_size,
        "model.patch-size": network.patch_size,
        "model.teacher-dim": 3 * network.patch_size**2,
    }
    train("pretrain.train_visual_tokenizer", "laptop", codes, steps.visual_tokenizer, out)
    sizes = {f"model.{name.replace('_', '-')}": getattr(network, name) for name in NETWORK}
    run = recipe().initial_weights
    assert run is not None
    length = recipe().data.text_length
    words = {
        "data.text-tokenizer": recipe().data.text_tokenizer,
        "data.caption-length": length,
        "data.text-length": length,  # of no text, but no longer than the network reads
    }
    settings = PRETRAINING | sizes | words | {"run-dir": run, "evaluation.every-steps": 0}
    train("pretrain.train", "laptop", settings, steps.pretraining, out)


def finetune(start: Path | None, run: Path, steps: Steps, out: Path) -> None:
    """Finetune with the recipe, from a run or from random weights, and ask the test questions after every epoch."""
    settings = {"initial-weights": start, "run-dir": run, "evaluation.every-steps": steps.per_epoch}
    train("pretrain.finetune", "easy_vqa", settings, steps.finetuning, out)


def train(module: str, name: str, settings: Mapping[str, object], num_steps: int, out: Path) -> None:
    """Start a run: it goes on where it was stopped, refuses other settings, and ends at once if it is complete."""
    everything = dict(settings) | {
        "deepspeed-config": ROOT / "ds_configs" / "zero1.json",
        "optimizer.warmup-steps": max(1, num_steps // WARMUP_PART),
        "num-steps": num_steps,
        "save-every-steps": num_steps,
    }
    command(module, name, *options_of(everything), folder=out)


def accuracies(run: Path, per_epoch: int) -> list[float]:
    """Return the accuracy on the test questions before finetuning and after each epoch."""
    lines = {line["step"]: line["figures"] for line in read_evaluations(run)}
    return [lines[step]["vqa/acc"] for step in sorted(lines) if step % per_epoch == 0]
