"""Options of the evaluating commands."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data_pipeline.settings.ranges import Count, check_ranges
from data_pipeline.sources.readers import SourceOptions
from pretrain.config.evaluation import Beams, EvaluationConfig, Part, Penalty
from pretrain.config.run_config import WeightKind

HELD_OUT_SOURCE = SourceOptions(image_splits=("test",))
"""How held-out pairs that are not shards are read: of Karpathy's JSON the split that published figures are of."""
EvaluatedKind = Literal["pretraining", "contrast", "task"]
"""What a network was trained for last."""
KIND_NAMES: dict[EvaluatedKind, str] = {
    "pretraining": "a network of masked data modeling",
    "contrast": "a dual encoder",
    "task": "a network finetuned for a task",
}
SOURCES = ("images", "pairs", "texts", "labelled")
USERS: dict[str, tuple[EvaluatedKind, ...]] = {
    **dict.fromkeys(SOURCES, ("pretraining", "contrast")),  # a dual encoder's evaluation says what to give instead
    "held_out": ("task",),
    "answers": ("task",),
    "classes": ("task",),
    "results": ("task",),
    "num_beams": ("task",),
    "length_penalty": ("task",),
    "num_words": ("pretraining",),
    "num_labelled": ("pretraining", "contrast"),
    "captions_per_image": ("contrast",),
    "class_names": ("contrast",),
    "templates": ("contrast",),
    "reading": ("contrast",),
    "parts": ("pretraining", "contrast"),
    "visual_tokenizer": ("pretraining",),
}
"""Kinds of networks that an option is for; those not named are for all."""
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class MaskedWordsOptions:
    """Accuracy of guessing masked caption words with the right image, a wrong image, and the commonest word; with whole
    images (acc_right_image), and with as many patches hidden as in training (acc_right_masked). Warns if whole images
    are worse. nll is the mean negative log likelihood per token, in nats."""

    source: Run
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    pairs: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PAIRS")]
    """Shards of held-out pairs."""
    max_pairs: Count = 1000
    """Pairs to evaluate, the first of the shards."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class MaskedPatchesOptions:
    """Accuracy of guessing the codes of hidden patches (acc), next to two baselines without a network: the commonest
    code of all patches (acc_commonest) and of each place (acc_commonest_at_place), each counted without the patch in
    question; and the mean negative log likelihood (nll) next to the entropy of the codes, both in nats. A few hundred
    images are enough."""

    source: Run
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    images: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Shards of held-out images or pairs."""
    visual_tokenizer: Path | None = None
    """The run's visual tokenizer, if it was moved. None: the path in the run's config."""
    max_images: Count = 1000
    """Images to evaluate, the first of the shards."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class EvaluateOptions:
    """Figures of a network on held-out data: those that a run computes while it trains, by the same code and in the
    run's precision. Held-out data and numbers that are not given are those of the run's settings. A dual encoder has
    retrieval and zero-shot classification instead of masked words and patches, a finetuned network the figures of its
    task. Started by deepspeed or torchrun, ranks share the work."""

    source: Run
    """A run, whose newest checkpoint is taken, a checkpoint folder, RUN/checkpoints/best, or a folder that
    pretrain.convert --to safetensors wrote from a run. For a dual encoder or a finetuned network also any such folder,
    or Microsoft's file (beit3_base_itc_patch16_224.pth) with its tokenizer beside it."""
    images: str | None = None
    """Held-out shards of images or pairs."""
    pairs: str | None = None
    """Held-out shards of pairs; for a dual encoder any source of pairs that data_pipeline.write_shards reads, such as
    COCO's annotations or Karpathy's JSON."""
    texts: str | None = None
    """Held-out shards of texts."""
    labelled: str | None = None
    """Labelled images: a folder with one sub-folder per class, shards of kind label, or shards of pairs whose captions
    are the classes."""
    held_out: str | None = None
    """Held-out shards of the task of a finetuned network."""
    answers: Path | None = None
    """List of the answers of a network finetuned for vqa, in the order of its outputs. None: answer2label.txt beside
    the weights."""
    classes: Path | None = None
    """List of the classes of a network finetuned for classify, likewise; None: classes.txt beside the weights or the
    held-out shards."""
    results: Path | None = None
    """File to write what a finetuned network says of every held-out sample, in the form of the task's server: .json for
    vqa, caption and classify, .csv for nlvr2."""
    num_beams: Beams | None = None
    """Number of captions that a beam search follows for each image, for a network finetuned for captions."""
    length_penalty: Penalty | None = None
    """Exponent of the length that such a caption's log probability is divided by."""
    num_samples: Count | None = None
    """Number of held-out samples of each kind. For a dual encoder and a finetuned network all of the given data by
    default, and with results of all held-out data: recall depends on the number of candidates."""
    num_words: Count | None = None
    """Number of hidden caption words that are guessed."""
    num_labelled: Count | None = None
    """Number of labelled images."""
    captions_per_image: Count | None = None
    """Number of captions of an image that retrieval takes, the first of each; figures on COCO are usually of 5. None:
    as in the run's settings, by default all."""
    class_names: Path | None = None
    """File with the names of the classes for zero-shot classification: one per line, in the order of the sorted
    classes, or JSON {"class": "name"}."""
    templates: Path | None = None
    """File with the texts for a class, one per line, with {} for its name."""
    reading: tyro.conf.OmitArgPrefixes[SourceOptions] = field(default_factory=lambda: HELD_OUT_SOURCE)
    """How pairs that are not shards are read."""
    chunk_size: Count | None = None
    """Number of samples per forward."""
    parts: tuple[Part, ...] | None = None
    """Groups of figures."""
    visual_tokenizer: Path | None = None
    """The run's visual tokenizer, if it was moved. None: the path in the run's config."""
    weights: WeightKind = "raw"
    """Weights of a checkpoint: as trained, or their moving average (optimizer.ema_decay). An export has one kind."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def applied_to(self, settings: EvaluationConfig) -> EvaluationConfig:
        """Return the settings of a run with those that were given here."""
        names = (
            "images",
            "pairs",
            "texts",
            "labelled",
            "num_samples",
            "num_words",
            "num_labelled",
            "num_beams",
            "length_penalty",
            "captions_per_image",
            "class_names",
            "templates",
            "chunk_size",
            "parts",
        )
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(settings, **given)

    def check_use(self, use: EvaluatedKind) -> None:
        """Raise ValueError for an option that is for another kind of network."""
        for name, users in USERS.items():
            value = getattr(self, name)
            flags = [] if value is None else [f"--{name.replace('_', '-')}"]
            if isinstance(value, SourceOptions):
                flags = value.flags_beside(HELD_OUT_SOURCE)
            if flags and use not in users:
                remedy = "give --held-out" if use == "task" and name in SOURCES else "leave it out"
                raise ValueError(f"{flags[0]} is not for {KIND_NAMES[use]}, as {self.source} is; {remedy}")
