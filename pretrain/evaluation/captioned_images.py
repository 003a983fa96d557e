"""Images with their captions, as retrieval needs them: an image that several captions belong to is one candidate.

COCO has about five captions per image. In shards of pairs these are five pairs with the same image, and if each were a
candidate of its own, every text would have four answers as good as the right one. So pairs whose images have the same
bytes are one image, whichever rank reads them, in the order in which the images first occur. This holds for shards, of
pairs or of captions, and for every source of pairs that write_shards reads, among them COCO's annotations and
Karpathy's split of them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.records import ImageLocation, ParquetCell, Record, TarMember, read_image
from data_pipeline.samples.sample import BadSampleError, printable
from data_pipeline.settings.command_line import num_cores
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import INDEX_NAME, ShardIndex, read_index
from data_pipeline.shards.reader import UNREADABLE, SampleReader
from data_pipeline.shards.writer import SampleFilter, checked_text, sample_members
from data_pipeline.sources.readers import SourceOptions, read_records
from pretrain.evaluation.options import HELD_OUT_SOURCE
from pretrain.survival.console import warn

MAX_THREADS = 8
"""Threads that decode images; each rank has its own."""


class Pair(NamedTuple):
    """An image and one of its captions."""

    image: Hashable
    """Equal for images with the same bytes."""
    caption: str
    name: str
    """Place of the image, for messages."""
    read: Callable[[], bytes]
    """Returns the encoded image. Raises one of UNREADABLE."""


@dataclass(frozen=True)
class CaptionedImages:
    """The images of a source, each once, and their captions."""

    source: str
    """Path or URL, without passwords."""
    captions: list[str]
    image_of_caption: Tensor
    """(captions,) int64: place of the image that each belongs to; grouped by image, in its order."""
    readers: list[Pair]
    """One pair of each image, by place."""
    image_size: int
    max_image_pixels: int
    skipped: list[str]
    """One line for each reason for which pairs were left out."""
    index: ShardIndex | None = None
    """Index of the shards; None for another source."""

    @property
    def num_images(self) -> int:
        return len(self.readers)

    def images(self, places: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Return images, (B, 3, S, S) uint8, and which of them could be read, (B,) float32, 1 or 0.

        Nothing is kept: thousands of images are read one chunk after another.
        """
        pairs = [self.readers[place] for place in places]
        with ThreadPoolExecutor(min(MAX_THREADS, num_cores())) as pool:  # a reader of shards is for one thread
            found = list(pool.map(self._decoded, pairs, map(_bytes_or_error, pairs)))
        blank = np.zeros((3, self.image_size, self.image_size), np.uint8)
        pixels = np.stack([blank if image is None else image for image in found])
        return torch.from_numpy(pixels), torch.tensor([image is not None for image in found]).float()

    def name(self, place: int) -> str:
        return printable(self.readers[place].name)

    def _decoded(self, pair: Pair, encoded: bytes | Exception) -> NDArray[np.uint8] | None:
        try:
            if isinstance(encoded, Exception):
                raise encoded
            return ImageTransform(self.image_size, 1, 0, False, self.max_image_pixels).center(encoded)
        except UNREADABLE as error:  # on one rank alone: the others go on
            warn(f"skipped {printable(pair.name)}: {printable(str(error))}")
            return None


def open_captioned_images(
    source: str,
    setting: str,
    max_pairs: int | None,
    captions_per_image: int | None,
    data: DataConfig,
    image_size: int,
    check_shards: bool = True,
    options: SourceOptions = HELD_OUT_SOURCE,
) -> CaptionedImages:
    """Open shards of pairs or of captions, or a source of pairs that write_shards reads.

    setting: its name, for messages; max_pairs: the first of the source, None for all; captions_per_image: the first of
    each image, None for all; check_shards: as `read_index` has it; options: how a source that is not shards is read.
    Raises ValueError if it holds no pairs, OSError.
    """
    index: ShardIndex | None = None
    skipped: Counter[str] = Counter()
    try:
        if is_remote(source) or (Path(source) / INDEX_NAME).is_file():
            cache = ShardCache(data.cache_folder, data.cache_bytes, data.cache_for_group)
            index = read_index(source, cache, check_shards)
            if index.kind not in ("pair", "caption"):
                raise ValueError(f"it holds shards of kind {index.kind!r}, not 'pair' or 'caption'")
            if ignored := options.flags_beside(HELD_OUT_SOURCE):
                raise ValueError(f"shards are read without {ignored[0]}; leave it out")
            reader = SampleReader(index, data.max_member_bytes, cache)
            pairs: Iterable[Pair] = islice(_pairs_of_shards(reader, max_pairs, skipped), max_pairs)
        else:
            records = _sound_records(read_records("pair", source, options), skipped)
            pairs = _pairs_of_records(list(islice(records, max_pairs)), data.max_image_pixels)
        captions, image_of_caption, readers = by_image(pairs, captions_per_image)
        if not captions:
            raise ValueError("it has no pair that can be read")
    except ValueError as error:
        raise ValueError(f"{setting} {public_url(source)} cannot be used: {error}") from error
    return CaptionedImages(
        source=public_url(source),
        captions=captions,
        image_of_caption=torch.tensor(image_of_caption),
        readers=readers,
        image_size=image_size,
        max_image_pixels=data.max_image_pixels,
        skipped=[f"{count} pairs of {public_url(source)}: {reason}" for reason, count in skipped.items()],
        index=index,
    )


def by_image(pairs: Iterable[Pair], captions_per_image: int | None) -> tuple[list[str], list[int], list[Pair]]:
    """Return captions grouped by image, the place of each one's image, and one pair of each image, in their order.

    captions_per_image: the first of each image, None for all.
    """
    groups: dict[Hashable, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.image].append(pair)
    kept = [group[:captions_per_image] for group in groups.values()]
    captions = [pair.caption for group in kept for pair in group]
    return captions, [place for place, group in enumerate(kept) for _ in group], [group[0] for group in kept]


def _bytes_or_error(pair: Pair) -> bytes | Exception:
    try:
        return pair.read()
    except UNREADABLE as error:
        return error


def _pairs_of_shards(reader: SampleReader, max_pairs: int | None, skipped: Counter[str]) -> Iterator[Pair]:
    """Yield the first pairs of shards; those whose caption cannot be used are counted by the reason and left out.

    Bytes are equal if size and CRC-32 are, which the index has and every reading compares with the bytes: that two
    different images among 5,000 agree in both has a chance of about 1e-8.
    """
    for sample in range(min(max_pairs or reader.index.num_samples, reader.index.num_samples)):
        _, size, crc32 = (int(value) for value in reader.index.records[sample]["image"])
        try:
            captions = reader.texts(sample)
        except BadSampleError as error:
            skipped[error.reason] += 1
            continue
        name = f"{reader.shard_name(sample)}:{reader.key(sample)}"
        for caption in captions:
            yield Pair((size, crc32), caption, name, partial(reader.image_bytes, sample))


def _sound_records(records: Iterable[Record], skipped: Counter[str]) -> Iterator[Record]:
    """Yield the records with an image and a usable caption; the others are counted by the reason."""
    for record in records:
        try:
            caption = checked_text(record)
            if record.image is None:
                raise BadSampleError("image is missing")
        except BadSampleError as error:
            skipped[error.reason] += 1
        else:
            yield replace(record, text=caption)


def _pairs_of_records(records: list[Record], max_image_pixels: int) -> Iterator[Pair]:
    """Yield the pairs of records, with the images as write_shards would store them, so that the figures are equal."""
    keep = SampleFilter(max_image_pixels=max_image_pixels)
    same = _same_bytes({record.image for record in records if record.image is not None})

    def read(record: Record) -> bytes:
        members = sample_members(record, "pair", keep, split=None)
        assert members is not None
        return next(content for extension, content in members.items() if extension not in ("txt", "json"))

    for record in records:
        assert record.text is not None and record.image is not None
        yield Pair(same[record.image], record.text, record.place, partial(read, record))


def _same_bytes(locations: Iterable[ImageLocation]) -> dict[ImageLocation, Hashable]:
    """Return a value for each location, equal if the bytes are. Only files of the same size are read."""
    by_size: dict[int | None, list[ImageLocation]] = defaultdict(list)
    for location in locations:
        by_size[_num_bytes(location)].append(location)
    found: dict[ImageLocation, Hashable] = {}
    for size, group in by_size.items():
        is_alone = len(group) == 1 and size is not None
        found |= {location: size if is_alone else _digest(location) for location in group}
    return found


def _num_bytes(location: ImageLocation) -> int | None:
    """Return the size of an image, None if it is not known before reading."""
    if isinstance(location, bytes):
        return len(location)
    if isinstance(location, TarMember):
        return location.num_bytes
    if isinstance(location, ParquetCell) or not location.is_file():
        return None
    return location.stat().st_size


def _digest(location: ImageLocation) -> Hashable:
    """Return the SHA-256 of an image, or its location if it cannot be read."""
    try:
        return hashlib.sha256(read_image(location)).digest()
    except BadSampleError:
        return location
