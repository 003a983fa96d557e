"""What a run reads, and how samples become batches."""

import os
import re
import tempfile
from dataclasses import dataclass
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
    """Folder or URL, and weight: 'data/coco=2.5' -> ('data/coco', 5/2), 'data/coco' -> ('data/coco', 1).

    A folder that is named so, 'data/year=2020', has the weight 1, 'data/year=2020=2' the weight 2. Raises ValueError
    for a weight that is not positive and for a URL of a kind that is not read, such as pipe:.
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


@dataclass(frozen=True)
class DataConfig:
    """Shards, tokenizer and augmentation. Batch sizes belong to the run."""

    images: MayChange[tuple[str, ...]] = ()
    """Folders or URLs (s3://, gs://, https://, ...) of image shards. FOLDER=2 shows each of its samples twice as often
    as those of the others."""
    pairs: MayChange[tuple[str, ...]] = ()
    """The same of image-text shards."""
    texts: MayChange[tuple[str, ...]] = ()
    """The same of text shards."""
    text_tokenizer: MayChange[Path | None] = None
    """SentencePiece model, such as beit3.spm. Not needed for images alone."""
    caption_length: TextLength = 64
    """Tokens of a caption with <s> and </s>; longer ones are cut, shorter ones padded."""
    text_length: TextLength = 512
    """Tokens of a text passage with <s> and </s>."""
    num_lanes: Count = 64
    """Independent sequences of samples; must divide the global batch of each kind. Part of the sample order."""
    window_shards: Count = 4
    """Shards of a lane among which samples are mixed. Part of the sample order."""
    min_crop_scale: Annotated[float, Interval(gt=0, le=1)] = 0.2
    """Smallest part of an image's area that the random crop keeps."""
    color_jitter: PartBelowOne = 0.4
    """Strength of brightness, contrast and saturation jitter."""
    horizontal_flip: bool = True
    """Mirror half of the images."""
    num_workers: MayChange[WorkersOrZero] = 4
    """Loader processes per rank; 0 reads in the training process. Does not change the batches."""
    max_bad_samples: MayChange[CountOrZero] = 1000
    """The run stops, with a report, when more different samples than this had to be skipped."""
    cache_folder: MayChange[Path] = Path(tempfile.gettempdir()) / f"imglish_shards-{os.getuid()}"
    """Where remote shards are kept, on the local disk of each node; shared by its ranks. It must be yours alone."""
    cache_for_group: MayChange[bool] = False
    """Let the members of the cache folder's group share it; what another member fetched is verified when opened."""
    cache_bytes: MayChange[ByteCount] = 200_000_000_000
    """Most that the cache may hold; the shards least recently used go first."""
    max_image_pixels: ByteCount = 64_000_000
    """Larger images are bad samples."""
    max_member_bytes: ByteCount = 64_000_000
    """Larger members of a shard are bad samples."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for entry in (*self.images, *self.pairs, *self.texts):
            parse_source(entry)


@dataclass(frozen=True)
class SamplesPerStep:
    """The global batch: samples of each kind in a step, over all ranks and micro-steps."""

    images: int
    pairs: int
    texts: int

    def __str__(self) -> str:
        counts = [f"{count} {kind}" for kind, count in vars(self).items() if count]
        return " and ".join(filter(None, [", ".join(counts[:-1]), *counts[-1:]])) or "no samples"

    @property
    def total(self) -> int:
        return self.images + self.pairs + self.texts
