"""Held-out samples of a task by their place, without augmentation, as the network of the task takes them."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data_pipeline.files.remote_files import public_url
from data_pipeline.loading.config import LoaderConfig
from data_pipeline.loading.task_batch import LoadedTaskSample, TaskBatch, TaskShape, collate_task
from data_pipeline.loading.task_sample import TaskLabels, TaskReader
from data_pipeline.samples.sample import BadSample, BadSampleError
from data_pipeline.samples.tasks import TASK_KINDS, Annotation, CaptionAnnotation, Task, VqaAnnotation
from data_pipeline.settings.command_line import num_cores
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import ShardIndex, read_index
from data_pipeline.shards.reader import UNREADABLE, SampleReader
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID, PAD_ID, TextTokenizer
from pretrain.formats.preprocessing import Preprocessing
from pretrain.survival.console import warn

MAX_THREADS = 8
"""Threads that read and decode; each rank has its own."""
REMEDY = "give the right folder; a run goes without by --evaluation.every-steps 0"


@dataclass(frozen=True)
class HeldOutTask:
    """The first samples of a folder of shards of a task."""

    folder: str
    """Path or URL, without passwords."""
    index: ShardIndex
    readers: tuple[TaskReader, ...]
    """Readers of the same shards, one for each thread."""
    annotations: list[Annotation | None]
    """Annotation of each sample; None for one that cannot be used."""
    shape: TaskShape
    problems: Counter[str]
    """How many samples cannot be used, by the reason, such as a class that the network has not."""

    @property
    def task(self) -> Task:
        return self.shape.task

    @property
    def num_samples(self) -> int:
        return len(self.annotations)

    @property
    def labels(self) -> TaskLabels:
        """The answers or classes that the labels stand for."""
        return self.readers[0].labels

    @property
    def has_labels(self) -> bool:
        """Whether any sample has answers, a label or captions, which those of a test split have not."""
        return any(annotation is not None and is_labelled(annotation) for annotation in self.annotations)

    def usable(self, is_good: Tensor) -> list[int]:
        """Return the places of samples with an annotation whose images could be read. is_good: (n,) bool."""
        return [place for place, found in enumerate(self.annotations) if found is not None and is_good[place]]

    def key(self, place: int) -> str:
        return self.readers[0].reader.key(place)

    def batch(self, places: Sequence[int]) -> tuple[TaskBatch, Tensor]:
        """Return samples, and which of them could be read, (B,) float32, 1 or 0. Nothing is kept for the next call."""
        found: list[LoadedTaskSample | None] = [None] * len(places)
        num_threads = min(len(self.readers), len(places))

        def read(thread: int) -> None:
            for number in range(thread, len(places), num_threads):
                found[number] = self._sample(self.readers[thread], places[number])

        with ThreadPoolExecutor(num_threads) as pool:  # a reader is for one thread
            list(pool.map(read, range(num_threads)))
        whole = [self._blank(place) if sample is None else sample for place, sample in zip(places, found, strict=True)]
        is_good = torch.tensor([sample is not None for sample in found]).float()
        return collate_task(0, whole, [], self.shape), is_good

    def _sample(self, reader: TaskReader, place: int) -> LoadedTaskSample | None:
        try:
            loaded = reader.sample(place).loaded
        except UNREADABLE as error:  # on one rank alone: the others go on
            warn(f"skipped {BadSample(reader.reader.shard_name(place), self.key(place), str(error))}")
            return None
        return replace(loaded, ids=self._no_words()) if loaded.ids is None else loaded

    def _blank(self, place: int) -> LoadedTaskSample:
        pixels = np.zeros((3, self.shape.image_size, self.shape.image_size), np.uint8)
        second = pixels if self.task == "nlvr2" else None
        return LoadedTaskSample(place, self.key(place), pixels, second, self._no_words(), None)

    def _no_words(self) -> list[int] | None:
        """Return the ids of a text without words; None for a task without texts."""
        return None if self.task == "classify" else [BOS_ID, EOS_ID] + [PAD_ID] * (self.shape.text_length - 2)


def open_held_out_task(
    folder: str,
    setting: str,
    data: LoaderConfig,
    labels: TaskLabels,
    tokenizer: TextTokenizer | None,
    preprocessing: Preprocessing,
    max_samples: int | None = None,
    check_shards: bool = True,
) -> HeldOutTask:
    """Open a folder of held-out shards of a task.

    setting: its name, for messages; tokenizer: None for classify; preprocessing: that of the network; max_samples: the
    first of the shards, None for all; check_shards: as `read_index` has it. Raises ValueError if the folder is missing,
    damaged, of another kind, or if none of its first samples can be used.
    """
    kind, cache = TASK_KINDS[labels.task], ShardCache(data.cache_folder, data.cache_bytes, data.cache_for_group)
    try:
        index = read_index(folder, cache, check_shards)
    except ValueError as error:
        raise ValueError(f"{setting}: {error} ({REMEDY})") from error
    if index.kind != kind:
        raise ValueError(
            f"{setting} {public_url(folder)} holds shards of kind {index.kind!r}, not {kind!r}, which task "
            f"{labels.task} needs; give other shards"
        )
    num_samples = min(max_samples or index.num_samples, index.num_samples)
    readers = tuple(
        TaskReader(
            SampleReader(index, data.max_member_bytes, cache),
            labels,
            tokenizer,
            preprocessing.text_length,
            preprocessing.image_transform(data.max_image_pixels),
        )
        for _ in range(min(MAX_THREADS, num_cores()))
    )
    annotations, problems = _annotations(readers[0], num_samples)
    if problems and num_samples == problems.total():
        raise ValueError(
            f"{setting} {public_url(folder)}: none of its {num_samples} samples can be used: "
            f"{problems.most_common(1)[0][0]}; give other shards"
        )
    shape = TaskShape(labels.task, preprocessing.image_size, preprocessing.text_length, labels.num_labels)
    return HeldOutTask(public_url(folder), index, readers, annotations, shape, problems)


def is_labelled(annotation: Annotation) -> bool:
    """Return whether an annotation says what is right, as those of a test split do not."""
    if isinstance(annotation, VqaAnnotation):
        return annotation.answers is not None
    if isinstance(annotation, CaptionAnnotation):
        return bool(annotation.captions)
    return annotation.label is not None


def _annotations(reader: TaskReader, num_samples: int) -> tuple[list[Annotation | None], Counter[str]]:
    """Return the annotations of the first samples, and how many cannot be used, by the reason."""
    found: list[Annotation | None] = []
    problems: Counter[str] = Counter()
    for place in range(num_samples):
        try:
            annotation = reader.reader.annotation(place)
            reader.labels.target(annotation)
        except UNREADABLE as error:
            problems[error.reason if isinstance(error, BadSampleError) else str(error)] += 1
            found.append(None)
        else:
            found.append(annotation)
    return found, problems
