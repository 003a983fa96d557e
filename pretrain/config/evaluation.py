"""Settings of the evaluation in a run: held-out data, how often, how many samples, which figures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval

from data_pipeline.files.remote_files import public_url
from data_pipeline.settings.ranges import Count, CountOrZero, check_ranges

Part = Literal["losses", "words", "codebook", "retrieval", "zero_shot", "knn", "probe"]
"""A group of figures; docs/evaluation.md has the figures of each."""
PARTS: tuple[Part, ...] = ("losses", "words", "codebook", "retrieval", "zero_shot", "knn", "probe")

Beams = Annotated[int, Interval(ge=1, le=1000)]
Penalty = Annotated[float, Interval(ge=0, le=100)]


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on held-out data, in the run and by pretrain.evaluate. Without a folder there is none."""

    images: str | None = None
    """Folder or URL of held-out shards of images, or of pairs, of which the images are taken."""
    pairs: str | None = None
    """Folder or URL of held-out shards of pairs. For a contrastive run also any source of pairs that
    data_pipeline.write_shards reads."""
    texts: str | None = None
    """Folder or URL of held-out shards of texts."""
    labelled: str | None = None
    """Labelled images for zero-shot classification, k-NN and the linear probe: a folder with one sub-folder of image
    files per class, shards of kind label, or shards of pairs, whose captions are the classes. For k-NN and the probe
    every second image of a class is for training, the others are tested."""
    every_steps: CountOrZero = 1000
    """Number of steps between evaluations. A new run is evaluated before its first step and each run after its last;
    0 disables evaluation."""
    num_samples: Count = 1000
    """Number of held-out samples of each kind, the first of each folder."""
    num_words: Count = 1000
    """Number of hidden caption words that are guessed, with the right image and with a wrong one."""
    num_labelled: Count = 4000
    """Number of labelled images, spread evenly over the folder."""
    captions_per_image: Count | None = None
    """Number of captions of an image that retrieval takes, the first of each. None: all; figures on COCO are usually
    of 5."""
    class_names: Path | None = None
    """File with the names of the classes for zero-shot classification: one per line, in the order of the sorted
    classes, or JSON {"class": "name"}. None: data.class_names, or else the classes themselves."""
    templates: Path | None = None
    """File with the texts for a class, one per line, with {} for its name. None: data.templates, or else seven of our
    own."""
    num_beams: Beams = 3
    """Number of captions that a beam search follows for each held-out image of a captioning run; 1: greedy."""
    length_penalty: Penalty = 0.6
    """Exponent of the length that such a caption's log probability is divided by."""
    chunk_size: Count = 32
    """Number of samples of each kind per forward. The same on any number of ranks, so that the figures are too."""
    parts: tuple[Part, ...] = PARTS
    """Groups of figures; those without data are left out."""
    best: str | None = None
    """Figure, such as loss/total or words/acc_right_image, whose best checkpoint is kept; the file checkpoints/best
    names it. Needs a checkpoint at every evaluation."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Whether the lowest or the highest value is the best."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.parts:
            raise ValueError("evaluation.parts is empty; set evaluation.every_steps 0 to disable evaluation")

    def public(self) -> "EvaluationConfig":
        """Return the same without passwords and signatures of URLs."""
        folders = {name: getattr(self, name) for name in ("images", "pairs", "texts", "labelled")}
        shown: dict[str, Any] = {name: public_url(folder) for name, folder in folders.items() if folder is not None}
        return replace(self, **shown)

    @property
    def has_data(self) -> bool:
        """Whether any folder is given."""
        return any((self.images, self.pairs, self.texts, self.labelled))

    @property
    def is_on(self) -> bool:
        """Whether a run is evaluated."""
        return self.has_data and self.every_steps > 0
