"""What a run reads, and how samples become batches."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data_pipeline.remote_files import is_remote


def parse_source(entry: str) -> tuple[str, Fraction]:
    """Folder or URL, and weight: 'data/coco=2.5' -> ('data/coco', 5/2), 'data/coco' -> ('data/coco', 1).

    A local folder whose own name ends in a number, such as year=2020, is taken as a whole; year=2020=1 is always clear.
    Raises ValueError for a weight that is not positive and for a URL of a kind that is not read, such as pipe:.
    """
    folder, equals, number = entry.rpartition("=")
    weight = Fraction(1)
    if equals and os.path.isdir(entry):
        if os.path.isdir(folder):
            raise ValueError(
                f"source {entry!r} may be that folder or {folder} with a weight; write {entry}=1 or {folder}={number}.0"
            )
        return entry, weight
    try:
        weight = Fraction(number) if equals else weight
    except (ValueError, ZeroDivisionError):
        folder = ""
    folder = folder or entry
    if weight <= 0:
        raise ValueError(f"weight of source {entry!r} must be positive; leave the source out instead")
    is_remote(folder)
    return folder, weight


@dataclass(frozen=True)
class DataConfig:
    """Shards, tokenizer and augmentation. Batch sizes belong to the run."""

    images: tuple[str, ...] = ()
    """Folders or URLs (s3://, gs://, https://, ...) of image shards. FOLDER=2 shows each of its samples twice as often
    as those of the others."""
    pairs: tuple[str, ...] = ()
    """The same of image-text shards."""
    texts: tuple[str, ...] = ()
    """The same of text shards."""
    text_tokenizer: Path | None = None
    """SentencePiece model, such as beit3.spm. Not needed for images alone."""
    caption_length: int = 64
    """Tokens of a caption with <s> and </s>; longer ones are cut, shorter ones padded."""
    text_length: int = 512
    """Tokens of a text passage with <s> and </s>."""
    num_lanes: int = 64
    """Independent sequences of samples; must divide the global batch of each kind. Part of the sample order."""
    window_shards: int = 4
    """Shards of a lane among which samples are mixed. Part of the sample order."""
    min_crop_scale: float = 0.2
    """Smallest part of an image's area that the random crop keeps."""
    color_jitter: float = 0.4
    """Strength of brightness, contrast and saturation jitter."""
    horizontal_flip: bool = True
    """Mirror half of the images."""
    num_workers: int = 4
    """Loader processes per rank; 0 reads in the training process. Does not change the batches."""
    max_bad_samples: int = 1000
    """The run stops, with a report, when more different samples than this had to be skipped."""
    cache_folder: Path = Path("/tmp/imglish_shards")
    """Where remote shards are kept, on the local disk of each node; shared by its ranks."""
    cache_bytes: int = 200_000_000_000
    """Most that the cache may hold; the shards least recently used go first."""
    max_image_pixels: int = 64_000_000
    """Larger images are bad samples."""
    max_member_bytes: int = 64_000_000
    """Larger members of a shard are bad samples."""

    def __post_init__(self) -> None:
        if not 0 < self.min_crop_scale <= 1:
            raise ValueError(f"min_crop_scale {self.min_crop_scale} must lie in (0, 1]")
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter {self.color_jitter} must lie in [0, 1)")
        for entry in (*self.images, *self.pairs, *self.texts):
            parse_source(entry)
        if self.num_lanes < 1 or self.window_shards < 1 or self.num_workers < 0:
            raise ValueError("num_lanes and window_shards must be at least 1, num_workers at least 0")
        if self.caption_length < 3 or self.text_length < 3:
            raise ValueError("caption_length and text_length must be at least 3: <s>, a word, </s>")
