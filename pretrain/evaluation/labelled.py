"""Labelled images for zero-shot classification, k-NN and the linear probe: a folder with a sub-folder per class, shards
of kind label, or shards of pairs whose captions are the classes.

All name their classes without a rule that somebody has to guess. Shards of images are refused: they hold no class.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.answers import read_list_beside
from data_pipeline.samples.sample import BadSampleError, printable
from data_pipeline.samples.tasks import ClassAnnotation
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import INDEX_NAME, read_index
from data_pipeline.shards.reader import UNREADABLE, SampleReader
from data_pipeline.shards.writer import as_stored
from data_pipeline.sources.images import is_image_name
from pretrain.survival.console import warn

SETTING = "evaluation.labelled"
LAYOUTS = (
    "give a folder with one sub-folder of image files per class, shards of kind label, or shards of pairs whose "
    "captions are the classes"
)
MIN_CLASSES = 2


@dataclass
class Labelled:
    """Labelled images by their place, spread evenly over their source."""

    folder: str
    classes: tuple[str, ...]
    """Names of the classes, sorted; also of those that no image was taken of."""
    labels: Tensor
    """(n,) int64, the class of each image."""
    is_test: Tensor
    """(n,) bool: every second image of each class is tested, the others are for training."""
    image_size: int
    max_image_pixels: int
    max_member_bytes: int
    sources: list[Path] | tuple[SampleReader, list[int]]
    """Files, or a reader and its samples."""
    skipped: list[str]
    """One line for each reason for which samples were left out."""
    keeps_images: bool = True
    """Whether images stay in memory for the next evaluation, as each rank needs only its own."""
    _read: dict[int, NDArray[np.uint8] | None] = field(default_factory=dict)

    def images(self, places: range) -> tuple[Tensor, Tensor]:
        """Return images, (B, 3, S, S) uint8, and which of them could be read, (B,) float32, 1 or 0."""
        found = [self._read[place] if place in self._read else self._image(place) for place in places]
        if self.keeps_images:
            self._read.update(zip(places, found, strict=True))
        blank = np.zeros((3, self.image_size, self.image_size), np.uint8)
        pixels = np.stack([blank if image is None else image for image in found])
        return torch.from_numpy(pixels), torch.tensor([image is not None for image in found]).float()

    def _image(self, place: int) -> NDArray[np.uint8] | None:
        transform = ImageTransform(self.image_size, 1, 0, False, self.max_image_pixels)
        try:
            return transform.center(self._encoded(place))
        except UNREADABLE as error:  # on one rank alone: the others go on
            warn(f"skipped {self.name(place)}: {printable(str(error))}")
            return None

    def _encoded(self, place: int) -> bytes:
        if isinstance(self.sources, tuple):
            reader, samples = self.sources
            return reader.image_bytes(samples[place])
        path = self.sources[place]
        if path.stat().st_size > self.max_member_bytes:
            raise BadSampleError(f"file exceeds data.max_member_bytes {self.max_member_bytes}")
        return as_stored(path.read_bytes(), self.max_image_pixels)

    def name(self, place: int) -> str:
        if isinstance(self.sources, tuple):
            reader, samples = self.sources
            return f"{reader.shard_name(samples[place])}:{reader.key(samples[place])}"
        return printable(str(self.sources[place]))


def open_labelled(
    folder: str,
    max_images: int,
    data: DataConfig,
    image_size: int,
    check_shards: bool,
    with_all_classes: bool = False,
    keeps_images: bool = True,
    is_split: bool = True,
) -> Labelled:
    """Open labelled images.

    check_shards: as `read_index` has it; with_all_classes: take the classes of all samples of shards, and those of the
    list beside shards of kind label, not only those of the chosen samples; keeps_images: see `Labelled`; is_split:
    some images of a class are tested by the others, as by k-NN and a linear probe. Raises ValueError if the images are
    not of a known layout, or have fewer than two classes, with two images each if is_split, OSError.
    """
    sources: list[Path] | tuple[SampleReader, list[int]]
    skipped: list[str] = []
    if is_remote(folder) or (Path(folder) / INDEX_NAME).is_file():
        cache = ShardCache(data.cache_folder, data.cache_bytes, data.cache_for_group)
        index = read_index(folder, cache, check_shards)
        if index.kind not in ("pair", "label"):
            raise ValueError(
                f"{SETTING} {public_url(folder)} holds shards of kind {index.kind!r}, which have no classes; {LAYOUTS}"
            )
        reader = SampleReader(index, data.max_member_bytes, cache)
        chosen = spread(index.num_samples, max_images)
        needed: Iterable[int] = chosen
        listed: list[str] | None = None
        if with_all_classes:
            listed = None if is_remote(folder) else read_list_beside(Path(folder), index.kind)
            needed = chosen if listed else range(index.num_samples)
        class_of, reasons = _classes_in(reader, needed)
        samples = [sample for sample in chosen if sample in class_of]
        names = [class_of[sample] for sample in samples]
        all_names = [*class_of.values(), *(listed or ())]
        skipped = [f"{count} samples of {public_url(folder)}: {reason}" for reason, count in reasons.items()]
        sources = (reader, samples)
    else:
        files = image_files(Path(folder))
        sources = [files[place] for place in spread(len(files), max_images)]
        names, all_names = ([path.parent.name for path in part] for part in (sources, files))
    counts, classes = Counter(names), tuple(sorted(set(all_names)))
    if is_split and sum(count >= 2 for count in counts.values()) < MIN_CLASSES:
        without = ", or leave knn and probe out of evaluation.parts" * with_all_classes
        raise ValueError(
            f"{SETTING} {public_url(folder)}: {len(names)} images in {len(counts)} classes, of which at least "
            f"{MIN_CLASSES} need two images or more; {'; '.join([*skipped, LAYOUTS])}, or raise "
            f"evaluation.num_labelled{without}"
        )
    if len(classes) < MIN_CLASSES or not names:
        found = f"{SETTING} {public_url(folder)}: {len(names)} images of fewer than {MIN_CLASSES} classes"
        raise ValueError("; ".join([found, *skipped, LAYOUTS]))
    number = {name: place for place, name in enumerate(classes)}
    labels = [number[name] for name in names]
    return Labelled(
        public_url(folder),
        classes,
        torch.tensor(labels),
        every_second(labels),
        image_size,
        data.max_image_pixels,
        data.max_member_bytes,
        sources,
        skipped,
        keeps_images,
    )


def _classes_in(reader: SampleReader, samples: Iterable[int]) -> tuple[dict[int, str], Counter[str]]:
    """Return the classes of samples, and how many have none that can be read, by the reason."""
    found: dict[int, str] = {}
    reasons: Counter[str] = Counter()
    for sample in samples:
        try:
            found[sample] = _class_in(reader, sample)
        except BadSampleError as error:  # of its bytes, so on all ranks
            reasons[error.reason] += 1
    return found, reasons


def _class_in(reader: SampleReader, sample: int) -> str:
    """Return the class of a sample of kind label, or the caption of a pair. Raises BadSampleError."""
    if reader.index.kind == "pair":
        return reader.text(sample).strip()
    annotation = reader.annotation(sample)
    assert isinstance(annotation, ClassAnnotation)
    return annotation.name


def image_files(folder: Path) -> list[Path]:
    """Return the image files of all sub-folders, in the order of their names. Raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"{SETTING} {folder} does not exist; {LAYOUTS}")
    found = [
        Path(entry.path) / name
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entry.is_dir() and not entry.name.startswith(".")
        for name in sorted(os.listdir(entry.path))
        if is_image_name(name) and not name.startswith(".")
    ]
    if not found:
        raise ValueError(f"{SETTING} {folder} has no sub-folder with images; {LAYOUTS}")
    return found


def spread(total: int, most: int) -> list[int]:
    """Return at most `most` of 0 .. total - 1 at even distances, so that every class of a sorted source has some."""
    num_chosen = min(total, most)
    return [place * total // num_chosen for place in range(num_chosen)]


def every_second(labels: list[int]) -> Tensor:
    """Return (n,) bool, True for every second image of each class."""
    seen: Counter[int] = Counter()
    is_test = []
    for label in labels:
        is_test.append(seen[label] % 2 == 1)
        seen[label] += 1
    return torch.tensor(is_test)
