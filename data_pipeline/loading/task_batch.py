"""This rank's part of the global batch of a finetuning step, and how it is put together from samples.

Shapes: B samples of this rank; S image side, L text length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.loading.tensor_fields import TensorFields
from data_pipeline.samples.sample import BadSample
from data_pipeline.samples.task_labels import Target
from data_pipeline.samples.tasks import Task
from data_pipeline.texts.tokenizer import PAD_ID


@dataclass(frozen=True)
class LoadedTaskSample:
    """One sample of a task as the network sees it."""

    sample_id: int
    key: str
    pixels: NDArray[np.uint8]
    """(3, S, S)"""
    second_pixels: NDArray[np.uint8] | None = None
    """(3, S, S); only for task nlvr2."""
    ids: list[int] | None = None
    """Token ids, padded to L; None for task classify."""
    target: Target | None = None
    """None for task caption, and in evaluation for a sample of a test split."""


@dataclass(frozen=True)
class TaskShape:
    """The sizes that all batches of a run share."""

    task: Task
    image_size: int
    text_length: int
    num_labels: int
    """Number of answers, or of classes; 2 for nlvr2, 0 for caption."""


@dataclass(eq=False)
class TaskBatch(TensorFields):
    """This rank's part of the global batch of one step."""

    step: int
    sample_ids: Tensor
    """(B,) int64"""
    images: Tensor
    """(B, 3, S, S) uint8"""
    second_images: Tensor | None
    """(B, 3, S, S) uint8, the right images of task nlvr2; None for other tasks."""
    text_ids: Tensor | None
    """(B, L) int64: questions, statements or captions; None for task classify."""
    text_lengths: tuple[int, ...]
    """The number of tokens of each text without padding: a tuple, because the shapes of the step follow from it. Empty
    for task classify."""
    targets: Tensor | None
    """(B, answers) float32 scores for task vqa; (B,) int64 for tasks nlvr2 (1: the statement is true) and classify;
    None for task caption."""
    keys: list[str]
    """Sample keys."""
    bad_samples: list[BadSample]
    """Samples that were skipped."""
    failure: str = ""
    """Why this batch could not be read and is empty."""

    @property
    def text_padding(self) -> Tensor | None:
        """(B, L) bool, True = padding; None for task classify."""
        return None if self.text_ids is None else self.text_ids == PAD_ID

    def micro_batches(self, count: int) -> list["TaskBatch"]:
        """Split into `count` equal parts. `count` must divide the number of samples."""
        num_samples = len(self.sample_ids)
        assert num_samples % count == 0, f"{count} micro-batches must divide {num_samples} samples"
        if count == 1:
            return [self]
        size = num_samples // count
        rows = [slice(number * size, (number + 1) * size) for number in range(count)]
        return [
            replace(
                self,
                text_lengths=self.text_lengths[part],
                keys=self.keys[part],
                **{name: tensor[part] for name, tensor in self.tensors().items()},  # type: ignore[arg-type]
            )
            for part in rows
        ]


def collate_task(
    step: int,
    samples: Sequence[LoadedTaskSample],
    bad_samples: list[BadSample],
    shape: TaskShape,
    failure: str = "",
) -> TaskBatch:
    """Put samples together. Without samples the tensors have their shapes too.

    Samples without a target, as a test split has them, get scores of 0, or the label -1.
    """
    ids = None
    if shape.task != "classify":
        ids = torch.tensor([sample.ids for sample in samples], dtype=torch.int64).view(-1, shape.text_length)
    return TaskBatch(
        step=step,
        sample_ids=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
        images=_stacked([sample.pixels for sample in samples], shape.image_size),
        second_images=_stacked([sample.second_pixels for sample in samples], shape.image_size)
        if shape.task == "nlvr2"
        else None,
        text_ids=ids,
        text_lengths=() if ids is None else tuple((ids != PAD_ID).sum(1).tolist()),
        targets=_targets([sample.target for sample in samples], shape),
        keys=[sample.key for sample in samples],
        bad_samples=bad_samples,
        failure=failure,
    )


def _stacked(images: Sequence[NDArray[np.uint8] | None], size: int) -> Tensor:
    """Return images as (B, 3, S, S)."""
    pixels = [image for image in images if image is not None]
    assert len(pixels) == len(images), "a sample lacks an image of its task"
    return torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, 3, size, size), np.uint8))


def _targets(targets: Sequence[Target | None], shape: TaskShape) -> Tensor | None:
    if shape.task == "caption":
        return None
    if shape.task != "vqa":
        return torch.tensor([-1 if target is None else target for target in targets], dtype=torch.int64)
    scores = torch.zeros(len(targets), shape.num_labels)
    for row, target in zip(scores, targets, strict=True):
        if target is not None:
            assert not isinstance(target, int)
            for label, score in target.items():
                row[label] = score
    return scores
