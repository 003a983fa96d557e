"""Where samples come from, by what a source is and what its files hold.

| SOURCE                | kind image           | kind pair                          | kind text              |
| --------------------- | -------------------- | ---------------------------------- | ---------------------- |
| scenes:COUNT[:SEED]   | drawn images         | drawn images with captions         | sentences of the world |
| a folder              | its images, or rows  | rows of its .parquet, .csv, ...    | its text files, or rows|
| .tar, tars in it too  | its images           | -                                  | -                      |
| .txt                  | a list of paths      | SBU: captions beside URLs          | documents              |
| .json                 | -                    | COCO captions, Visual Genome       | documents, one a line  |
| .jsonl                | an image column      | an image and a caption column      | a text column          |
| .csv, .tsv, .parquet  | an image column      | an image and a caption column      | a text column          |

Text may be compressed (.gz, .bz2, .xz, .zst); WikiExtractor's output is told by its <doc> elements. Image paths are
relative to `image_root`, or else to the folder of the file. Shards that others wrote are indexed in place, not read
from here. What cannot be a sample becomes a record with a `problem`, so that nothing vanishes uncounted.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_pipeline.samples import Kind
from data_pipeline.scenes import Split, draw_samples
from data_pipeline.sources.files import form, walk
from data_pipeline.sources.images import images_of_folder, images_of_json_lines, images_of_list, images_of_tar
from data_pipeline.sources.pairs import pairs_of_json, pairs_of_json_lines, pairs_of_sbu
from data_pipeline.sources.records import Record
from data_pipeline.sources.tables import TABLE_FORMS, records_of_table
from data_pipeline.sources.texts import texts_of_file, texts_of_folder

DRAWN = "scenes:"
"""Beginning of a source that is drawn, not read."""


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source."""

    image_root: Path | None = None
    """Folder that image paths are relative to. None: the folder of the source's file."""
    image_column: str = "image"
    """Column or field with the path, or in Parquet the bytes, of the image."""
    caption_column: str = "caption"
    """Column or field with the caption, or in JSON lines a list of them."""
    text_column: str = "text"
    """Column or field with the document."""


def read_records(kind: Kind, source: str, options: SourceOptions, split: Split = "train") -> Iterator[Record]:
    """Every sample of a source, in a fixed order, as a record. split: of drawn scenes, whose compositions decide it.

    Raises ValueError for a source that does not exist, cannot be read or does not give this kind.
    """
    if source.startswith(DRAWN):
        count, seed = _scenes_arguments(source)
        return _drawn(kind, count, seed, split)
    path = Path(source)
    if not path.exists():
        raise ValueError(f"source {source} does not exist; give a folder, a file, or scenes:COUNT")
    root = options.image_root or path.parent
    found = {
        "image": lambda: _images(path, root, options),
        "pair": lambda: _pairs(path, root, options),
        "text": lambda: _texts(path, options),
    }[kind]()
    if found is None:
        raise ValueError(f"source {path} gives no samples of kind {kind!r}; data_pipeline/README.md lists what does")
    return found


def _images(path: Path, root: Path, options: SourceOptions) -> Iterator[Record] | None:
    if path.is_dir():
        return _of_each("image", path, options) or images_of_folder(path)
    if form(path) in TABLE_FORMS:
        return records_of_table("image", path, root, options.image_column, options.caption_column)
    readers = {
        ".tar": lambda: images_of_tar(path),
        ".txt": lambda: images_of_list(path, root),
        ".jsonl": lambda: images_of_json_lines(path, root, options.image_column),
    }
    return readers[form(path)]() if form(path) in readers else None


def _pairs(path: Path, root: Path, options: SourceOptions) -> Iterator[Record] | None:
    if path.is_dir():
        if any(name.endswith(".tar") for name in walk(path)):
            raise ValueError(f"{path} holds .tar shards: index them where they lie, by data_pipeline.index_shards")
        return _of_each("pair", path, options)
    if form(path) in TABLE_FORMS:
        return records_of_table("pair", path, root, options.image_column, options.caption_column)
    readers = {
        ".json": lambda: pairs_of_json(path, root),
        ".txt": lambda: pairs_of_sbu(path, root),
        ".jsonl": lambda: pairs_of_json_lines(path, root, options.image_column, options.caption_column),
    }
    return readers[form(path)]() if form(path) in readers else None


def _texts(path: Path, options: SourceOptions) -> Iterator[Record] | None:
    if path.is_dir():
        return _of_each("text", path, options) or texts_of_folder(path, options.text_column)
    if form(path) in TABLE_FORMS:
        return records_of_table("text", path, path.parent, options.image_column, options.text_column)
    return texts_of_file(path, options.text_column)


def _of_each(kind: Kind, folder: Path, options: SourceOptions) -> Iterator[Record] | None:
    """The rows of all tables of a folder (Hugging Face: train-00000-of-00080.parquet, ...), where it has some.

    Parquet files alone count for images and texts: a list in .csv beside images or documents is none of them.
    """
    forms = TABLE_FORMS if kind == "pair" else (".parquet",)
    tables = [name for name in walk(folder) if form(name) in forms]
    if not tables:
        return None
    return itertools.chain.from_iterable(_of_one(kind, name, folder, options) for name in tables)


def _of_one(kind: Kind, table: str, folder: Path, options: SourceOptions) -> Iterator[Record]:
    parent = PurePosixPath(table).parent
    for record in read_records(kind, str(folder / table), options):
        yield replace(record, name=(parent / record.name).as_posix())


def _drawn(kind: Kind, count: int, seed: int, split: Split) -> Iterator[Record]:
    for sample in draw_samples(kind, count, seed, split):
        yield Record(sample.key, sample.image, sample.text, metadata=sample.metadata)


def _scenes_arguments(source: str) -> tuple[int, int]:
    numbers = source.split(":")[1:]
    if not all(number.isdigit() for number in numbers) or len(numbers) not in (1, 2):
        raise ValueError(f"source {source!r} must read scenes:COUNT or scenes:COUNT:SEED")
    return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0
