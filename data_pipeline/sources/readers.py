"""The reader of each source of pretraining, by its type and by the content of its files; task_readers.py has those of
tasks, which can be drawn as well.

| SOURCE                | kind image           | kind pair                          | kind text              |
| --------------------- | -------------------- | ---------------------------------- | ---------------------- |
| scenes:COUNT[:SEED]   | drawn images         | drawn images with captions         | sentences of the world |
| a folder              | its images and tars, | rows of its .parquet, .csv, .tsv,  | its text files and     |
|                       | or rows              | or images beside .txt files        | tars, or rows          |
| .tar, tars in it too  | its images           | images beside .txt members         | its text files         |
| .txt                  | a list of paths      | SBU: captions beside URLs          | documents              |
| .json                 | -                    | COCO, Karpathy, Visual Genome,     | a list, or documents,  |
|                       |                      | SBU, a list of objects             | one a line             |
| .jsonl                | an image column      | an image and a caption column      | a text column          |
| .csv, .tsv, .parquet  | an image column      | an image and a caption column      | a text column          |

Text may be compressed (.gz, .bz2, .xz, .zst); WikiExtractor's output is recognized by its <doc> elements. Image paths
are relative to `image_root`, or by default to the folder of the file. Shards of other tools are indexed in place, not
read here. Anything that cannot be a sample becomes a record with a `problem`, so that nothing vanishes uncounted.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import Kind, printable
from data_pipeline.samples.scene_tasks import draw_task_samples
from data_pipeline.samples.scenes import Split, draw_samples
from data_pipeline.samples.tasks import is_task
from data_pipeline.sources.captioned_objects import pairs_of_json_lines
from data_pipeline.sources.files import form
from data_pipeline.sources.folders import records_of_folder
from data_pipeline.sources.images import images_of_json_lines, images_of_list, images_of_tar
from data_pipeline.sources.pair_files import pairs_of_tar
from data_pipeline.sources.pairs import pairs_of_json, pairs_of_sbu
from data_pipeline.sources.tables import TABLE_FORMS, Columns, records_of_table
from data_pipeline.sources.texts import texts_of_file

DRAWN = "scenes:"
"""Prefix of a source that is drawn, not read."""


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading a source."""

    image_root: Path | None = None
    """Folder that image paths are relative to. By default the folder of the source file."""
    image_column: str = "image"
    """Column or field with the path of the image, or in Parquet its bytes."""
    caption_column: str = "caption"
    """Column or field with the caption, or with a list of captions, each of which becomes a pair."""
    text_column: str = "text"
    """Column or field with the document."""
    image_splits: tuple[str, ...] = ("train", "restval")
    """Splits to read from Karpathy's JSON; others are skipped and counted."""
    unescape_html: bool = False
    """Replace HTML entities (&amp;, &#39;) in captions and documents by their characters."""

    def flags_beside(self, default: "SourceOptions") -> list[str]:
        """Return the flags of the options that differ from the default, such as --image-root."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value != getattr(default, name)]


def read_records(kind: Kind, source: str, options: SourceOptions, split: Split = "train") -> Iterator[Record]:
    """Yield every sample of a source as a record, in a fixed order. split: only for drawn scenes.

    Raises ValueError if the source does not exist, cannot be read or gives no samples of this kind.
    """
    if source.startswith(DRAWN):
        count, seed = _scenes_arguments(source)
        found: Iterator[Record] | None = _drawn(kind, count, seed, split)
    elif not Path(source).exists():
        raise ValueError(f"source {source} does not exist; give a folder, a file, or scenes:COUNT")
    elif Path(source).is_dir():
        found = records_of_folder(kind, Path(source), _columns(kind, options))
    elif not Path(source).is_file():
        raise ValueError(f"source {source} is neither a file nor a folder; write the output of a pipe to a file first")
    else:
        found = _records_of_file(kind, Path(source), options)
    if found is None:
        raise ValueError(f"source {source} gives no samples of kind {kind!r}; docs/data.md lists what does")
    return finished(found, source, options.unescape_html)


def finished(records: Iterator[Record], source: str, unescape_html: bool) -> Iterator[Record]:
    """Yield the records of a source with a place each, and with HTML entities unescaped if asked for."""
    for record in records:
        if record.text is not None and unescape_html:
            record = replace(record, text=html.unescape(record.text))
        if unescape_html and (captions := record.metadata.get("captions")):
            record = replace(record, metadata={**record.metadata, "captions": list(map(html.unescape, captions))})
        yield record if record.place else replace(record, place=f"{source}: {record.name}")


def _columns(kind: Kind, options: SourceOptions) -> Columns:
    text_column = options.text_column if kind == "text" else options.caption_column
    return Columns.of_kind(kind, options.image_column, text_column)


def _records_of_file(kind: Kind, path: Path, options: SourceOptions) -> Iterator[Record] | None:
    root, fields = options.image_root or path.parent, (options.image_column, options.caption_column)
    if form(path) in TABLE_FORMS:
        return records_of_table(path, root, _columns(kind, options))
    if kind == "text":
        return texts_of_file(path, options.text_column)
    readers = {
        ("image", ".tar"): lambda: images_of_tar(path),
        ("image", ".txt"): lambda: images_of_list(path, root),
        ("image", ".jsonl"): lambda: images_of_json_lines(path, root, options.image_column),
        ("pair", ".tar"): lambda: pairs_of_tar(path),
        ("pair", ".json"): lambda: pairs_of_json(path, root, fields, options.image_splits),
        ("pair", ".txt"): lambda: pairs_of_sbu(path, root),
        ("pair", ".jsonl"): lambda: pairs_of_json_lines(path, root, fields),
    }
    reader = readers.get((kind, form(path)))
    return None if reader is None else reader()


def _drawn(kind: Kind, count: int, seed: int, split: Split) -> Iterator[Record]:
    draw = draw_task_samples if is_task(kind) else draw_samples
    for sample in draw(kind, count, seed, split):
        yield Record(sample.key, sample.image, sample.text, metadata=sample.metadata, image2=sample.image2)


def _scenes_arguments(source: str) -> tuple[int, int]:
    found = re.fullmatch(r"scenes:([0-9]{1,10})(?::([0-9]{1,20}))?", source)
    if found is None:
        raise ValueError(
            f"source {printable(source)!r} must read scenes:COUNT or scenes:COUNT:SEED, numbers of at most 10 and 20 "
            "digits"
        )
    return int(found[1]), int(found[2] or 0)
