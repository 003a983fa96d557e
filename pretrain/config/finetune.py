"""The settings of finetuning: a task, its samples, its head and its loss."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Interval

from data_pipeline.loading.config import SamplesPerStep
from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.samples.sample import Kind
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.settings.ranges import CountOrZero, PartBelowOne, PartBetween, Size
from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead, VqaHead
from pretrain.config.mixing import MixingConfig
from pretrain.config.run_config import EncoderRunConfig

LABEL_LISTS: dict[Task, str] = {"vqa": "answers", "classify": "classes"}
"""Tasks whose head has a row per label, with the field of the data that names the list of labels."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(EncoderRunConfig):
    """One finetuning run: a function of this, the data and the step.

    A moving average of the weights, which some finetuning recipes keep, is optimizer.ema_decay, as for every run.
    """

    data: TaskDataConfig
    task: Task
    """vqa: choose an answer to a question on an image. nlvr2: decide whether a sentence is true of two images. caption:
    describe an image. classify: name the class of an image."""
    task_samples_per_step: Annotated[int, Interval(ge=1, le=10_000_000)]
    """Number of samples of the task in the global batch, over all ranks and micro-steps."""
    num_classes: Size | None = None
    """Number of answers (vqa) or of classes (classify): as many as the list beside the shards has. None for the other
    tasks."""
    layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Factor of the learning rate from each block to the one below it; embeddings come below the first, heads above the
    last. 1: the same for all."""
    head_lr_factor: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Factor of the learning rate of the head that the task adds (vqa, nlvr2, classify); a pooler or norm before it
    keeps that of the last layer, as in Microsoft's code (VQA: 20)."""
    label_smoothing: PartBelowOne = 0.0
    """Share of a label's weight that is spread over the other words (caption) or over all classes (classify)."""
    mask_ratio: PartBetween = 0.7
    """Share of a caption's tokens that is masked and predicted (caption)."""
    drop_worst_share: PartBelowOne = 0.0
    """Share of the masked words of the global batch, those with the highest losses, that is left out (caption)."""
    drop_worst_after: CountOrZero = 0
    """Number of steps before the first in which words are left out (caption)."""
    mixing: MixingConfig = field(default_factory=MixingConfig)
    """Mixup and CutMix (classify)."""

    KIND: ClassVar[str] = "finetuning"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_labels()
        self._check_text()
        for name, tasks, is_set in (
            ("head_lr_factor", ("vqa", "nlvr2", "classify"), self.head_lr_factor != 1),
            ("label_smoothing", ("caption", "classify"), self.label_smoothing > 0),
            ("mask_ratio", ("caption",), self.mask_ratio != FinetuneConfig.mask_ratio),
            ("drop_worst_share", ("caption",), self.drop_worst_share > 0),
            ("drop_worst_after", ("caption",), self.drop_worst_after > 0),
            ("mixing", ("classify",), self.mixing.is_on),
        ):
            if is_set and self.task not in tasks:
                raise ValueError(f"{name} is for {' and '.join(tasks)}, not for task {self.task}; leave it out")

    def _check_labels(self) -> None:
        """Raise ValueError if the number of labels is missing, or labels are given for a task without any."""
        for task, name in LABEL_LISTS.items():
            if self.task != task and getattr(self.data, name) is not None:
                raise ValueError(f"data.{name} is for task {task}, not for {self.task}; leave it out")
        if self.task not in LABEL_LISTS and self.num_classes is not None:
            raise ValueError(f"num_classes is for vqa and classify, not for task {self.task}; leave it out")
        if self.task in LABEL_LISTS and self.num_classes is None:
            name = LABEL_LISTS[self.task]
            raise ValueError(f"task {self.task} needs num_classes, the number of {name}; give it")

    def _check_text(self) -> None:
        """Raise ValueError if the texts of the task cannot be read."""
        if not self.has_text:
            return
        if self.data.text_tokenizer is None:
            raise ValueError(
                f"data.text_tokenizer is needed for the texts of task {self.task}; give a SentencePiece model"
            )
        if self.data.text_length > self.model.max_text_length:
            raise ValueError(
                f"model.max_text_length {self.model.max_text_length} is below data.text_length "
                f"{self.data.text_length}; lower the latter"
            )

    @property
    def has_text(self) -> bool:
        """Whether a sample has a text."""
        return self.task != "classify"

    @property
    def images_per_sample(self) -> int:
        """Number of images of a sample."""
        return 2 if self.task == "nlvr2" else 1

    @property
    def heads(self) -> TaskHead:
        """The head of the task."""
        if self.task == "nlvr2":
            return Nlvr2Head()
        if self.task == "caption":
            return CaptionHead()
        assert self.num_classes is not None
        return VqaHead(self.num_classes) if self.task == "vqa" else ClassHead(self.num_classes)

    @property
    def kinds(self) -> list[tuple[Kind, tuple[str, ...], int]]:
        return [(TASK_KINDS[self.task], self.data.shards, self.task_samples_per_step)]

    @property
    def samples_per_step(self) -> SamplesPerStep:
        return SamplesPerStep(0, 0, 0, self.task_samples_per_step)

    @property
    def is_evaluated(self) -> bool:
        return self.data.held_out is not None and self.evaluation.every_steps > 0

    def micro_batch(self, world_size: int) -> SamplesPerStep:
        found = super().micro_batch(world_size)
        self.mixing.check_batch(self.task_samples_per_step, world_size * self.gradient_accumulation_steps)
        return found

    def drops_worst(self, step: int) -> bool:
        """Return whether a step, counted from 0, leaves out the masked words with the highest losses."""
        return self.drop_worst_share > 0 and step >= self.drop_worst_after

    def warnings(self) -> list[str]:
        found = super().warnings()
        if self.initial_weights is None:
            found.append(
                "initial_weights is not given: the network starts from random weights; to start from a pretrained one, "
                "give --initial-weights SOURCE"
            )
        return found
