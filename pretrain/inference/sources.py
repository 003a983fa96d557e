"""Samples to run a network on, from whatever holds them: shards with an index, or a raw source of any kind.

A source is listed by the main process, which costs little, and read by workers: a listing holds the place of an image,
not its bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.records import Record, read_image
from data_pipeline.samples.sample import BadSampleError, Kind, check_text, is_utf8
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import INDEX_NAME, read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.sources.files import form
from data_pipeline.sources.readers import SourceOptions, read_records
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine, open_text


@dataclass(frozen=True)
class Listed:
    """A sample that is not yet read."""

    key: str
    """Its name in the source: a path, a key of shards, or a number; `#2` is appended for a third caption."""
    place: str
    """Its place, for messages."""
    content: Record | int
    """What is read: a record, or the number of a sample in shards."""


class Samples(Protocol):
    """Samples of a source, in its order. Raises BadSampleError for what cannot be used, OSError if a disk fails."""

    num_samples: int | None
    """None: it is known at the end."""

    def __iter__(self) -> Iterator[Listed]: ...
    def image(self, listed: Listed) -> bytes: ...
    def text(self, listed: Listed) -> str: ...


class RecordSamples:
    """The samples of a raw source, as data_pipeline.write_shards reads it; a .txt of texts has one per line."""

    num_samples: int | None = None

    def __init__(self, kind: Kind, source: str, options: SourceOptions):
        self._kind, self._source, self._options = kind, source, options

    def __iter__(self) -> Iterator[Listed]:
        for record in self._records():
            number = "" if record.caption_number is None else f"#{record.caption_number}"
            yield Listed(record.name + number, record.place, record)

    def _records(self) -> Iterator[Record]:
        path = Path(self._source)
        if self._kind == "text" and form(path) == ".txt" and path.is_file():
            return _records_of_lines(path)
        return read_records(self._kind, self._source, self._options)

    def image(self, listed: Listed) -> bytes:
        record = _usable(listed)
        assert record.image is not None
        return read_image(record.image)

    def text(self, listed: Listed) -> str:
        record = _usable(listed)
        assert record.text is not None
        if not is_utf8(record.text):
            raise BadSampleError("text is not UTF-8")
        check_text(record.text)
        return record.text


class ShardSamples:
    """The samples of a folder of shards with an index, or of a URL."""

    def __init__(self, kind: Kind, source: str, reader: SampleReader):
        index = reader.index
        accepted = {"image": ("image", "pair"), "text": ("text", "pair"), "pair": ("pair",)}[kind]
        if index.kind not in accepted:
            words = " or ".join(map(repr, accepted))
            raise ValueError(f"{public_url(source)} holds shards of kind {index.kind!r}, not {words}")
        self.num_samples: int | None = index.num_samples
        self._reader = reader

    def __iter__(self) -> Iterator[Listed]:
        for number in range(self._reader.index.num_samples):
            key = self._reader.key(number)
            yield Listed(key, f"{self._reader.shard_name(number)}:{key}", number)

    def image(self, listed: Listed) -> bytes:
        assert isinstance(listed.content, int)
        return self._reader.image_bytes(listed.content)

    def text(self, listed: Listed) -> str:
        assert isinstance(listed.content, int)
        return self._reader.text(listed.content)


def open_samples(kind: Kind, source: str, options: SourceOptions, cache_folder: Path) -> Samples:
    """Open a source of images, texts or pairs. Raises ValueError if it holds none of this kind, or if it is shards and
    options are given, which are for other sources.

    Shards of pairs serve as images and as texts too.
    """
    if is_remote(source) or (Path(source) / INDEX_NAME).is_file():
        if ignored := options.flags_beside(SourceOptions()):
            raise ValueError(f"{public_url(source)} holds shards, which are read without {ignored[0]}; leave it out")
        cache = ShardCache(cache_folder, DataConfig.cache_bytes, DataConfig.cache_for_group)
        return ShardSamples(kind, source, SampleReader(read_index(source, cache), DataConfig.max_member_bytes, cache))
    return RecordSamples(kind, source, options)


def _usable(listed: Listed) -> Record:
    record = listed.content
    assert isinstance(record, Record)
    if record.problem is not None:
        raise BadSampleError(record.problem)
    return record


def _records_of_lines(path: Path) -> Iterator[Record]:
    """Yield a text per line. An empty line is a sample without a text: the others keep their numbers."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            problem = LONG_LINE_PROBLEM if isinstance(line, LongLine) else None
            yield Record(str(number), text=line.rstrip("\r\n"), problem=problem, place=f"{path}:{number}")
