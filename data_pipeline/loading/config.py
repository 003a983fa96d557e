"""Data settings of a run: sources, augmentation, the loader and its cache."""

import os
import re
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.settings.changes import MayChange
from data_pipeline.settings.ranges import (
    ByteCount,
    Count,
    CountOrZero,
    PartBelowOne,
    TextLength,
    WorkersOrZero,
    check_ranges,
)


def parse_source(entry: str) -> tuple[str, Fraction]:
    """Return folder or URL, and weight: 'data/coco=2.5' -> ('data/coco', 5/2), 'data/coco' -> ('data/coco', 1).

    If there is a folder named 'data/year=2020', that entry has weight 1, and 'data/year=2020=2' has weight 2. Raises
    ValueError if the weight is not positive, or for a URL of a protocol that is not read, such as pipe:.
    """
    folder, equals, number = entry.rpartition("=")
    if equals and Path(entry).is_dir():
        if Path(folder).is_dir():
            raise ValueError(f"{entry!r} is a folder, and {folder!r} is one too; write {entry + '=1'!r} for the former")
        folder, number = entry, "1"
    weight = Fraction(1)
    try:
        if equals:
            weight = Fraction(number) if re.fullmatch(r"-?[\d./]{1,20}(e-?\d\d?)?", number) else Fraction("no number")
    except (ValueError, ZeroDivisionError):
        folder = ""
    folder = folder or entry
    if not folder.strip() or "\0" in folder:
        raise ValueError(f"source {entry!r} names no folder; give the path or URL of shards")
    if weight <= 0:
        raise ValueError(f"weight of source {public_url(entry)!r} must be positive; leave the source out instead")
    is_remote(folder)
    return folder, weight


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Order, augmentation, loader processes and cache: settings that the data of every run has."""

    num_lanes: Count = 64
    """Number of independent sequences of samples. Must divide the global batch of each kind. Affects the order."""
    window_shards: Count = 4
    """Number of shards of a lane whose samples are shuffled together. Affects the order."""
    min_crop_scale: Annotated[float, Interval(gt=0, le=1)] = 0.2
    """Smallest fraction of an image's area that the random crop keeps."""
    color_jitter: PartBelowOne = 0.4
    """Strength of brightness, contrast and saturation jitter."""
    horizontal_flip: bool = True
    """Whether half of the images are mirrored."""
    num_workers: MayChange[WorkersOrZero] = 4
    """Number of loader processes per rank; 0 loads in the training process. Does not change the batches."""
    max_bad_samples: MayChange[CountOrZero] = 1000
    """Number of different samples that may be skipped before the run stops with a report."""
    cache_folder: MayChange[Path] = Path(tempfile.gettempdir()) / f"imglish_shards-{os.getuid()}"
    """Folder for downloaded shards on the local disk of each node, shared by its ranks. Must belong to you alone."""
    cache_for_group: MayChange[bool] = False
    """Share the cache with the members of the folder's group. Shards fetched by others are verified when opened."""
    cache_bytes: MayChange[ByteCount] = 200_000_000_000
    """Maximum size of the cache in bytes. The least recently used shards are evicted first."""
    max_image_pixels: ByteCount = 64_000_000
    """Images with more pixels are bad samples."""
    max_member_bytes: ByteCount = 64_000_000
    """Members of a shard with more bytes are bad samples."""


@dataclass(frozen=True)
class DataConfig(LoaderConfig):
    """Shards, tokenizer and augmentation. Batch sizes belong to the run."""

    images: MayChange[tuple[str, ...]] = ()
    """Folders or URLs (s3://, gs://, https://, ...) of image shards. The samples of FOLDER=2 are seen twice as often as
    those of the others."""
    pairs: MayChange[tuple[str, ...]] = ()
    """Folders or URLs of image-text shards: of kind pair, or of kind caption, of whose captions a step takes one, or of
    kind label, whose captions are the names of their classes in a template."""
    texts: MayChange[tuple[str, ...]] = ()
    """Folders or URLs of text shards."""
    text_tokenizer: MayChange[Path | None] = None
    """SentencePiece model, such as beit3.spm. Not needed if there are only images."""
    caption_length: TextLength = 64
    """Tokens per caption, including <s> and </s>. Longer captions are cut, shorter ones padded."""
    text_length: TextLength = 512
    """Tokens per text passage, including <s> and </s>."""
    classes: MayChange[Path | None] = None
    """List of the classes of shards of kind label. By default classes.txt in each of their folders."""
    class_names: MayChange[Path | None] = None
    """File with the names of these classes: one per line, in the order of the sorted classes, or JSON {"class":
    "name"}. None: the classes themselves, with spaces instead of underscores."""
    templates: MayChange[Path | None] = None
    """File with the captions for a class, one per line, with {} for its name; one is drawn for each sample. None: seven
    of our own, such as "a photo of a {}."."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for entry in (*self.images, *self.pairs, *self.texts):
            parse_source(entry)

    def public(self) -> "DataConfig":
        """Return the same without passwords and signatures of URLs."""
        images, pairs, texts = (tuple(map(public_url, entries)) for entries in (self.images, self.pairs, self.texts))
        return replace(self, images=images, pairs=pairs, texts=texts)


@dataclass(frozen=True)
class SamplesPerStep:
    """Number of samples of each kind in the global batch: per step, over all ranks and micro-steps."""

    images: int
    pairs: int
    texts: int
    task_samples: int = 0
    """Samples of a task, in finetuning."""

    def __str__(self) -> str:
        counts = [f"{count} {kind.replace('_', ' ')}" for kind, count in vars(self).items() if count]
        return " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]])) or "no samples"

    @property
    def total(self) -> int:
        return self.images + self.pairs + self.texts + self.task_samples
