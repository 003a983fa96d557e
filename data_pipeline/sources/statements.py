"""Statements about two images: NLVR2, Microsoft's index files, and JSON lines."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.annotated import AnnotatedFields, Unique
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, records_of_entries
from data_pipeline.sources.text_lines import json_lines, text_of

LABELS = {"true": 1, "false": 0}


def statements_of_json_lines(path: Path, fields: AnnotatedFields) -> Iterator[Record]:
    """Yield the statements of NLVR2's train.json, dev.json and test1.json, which hold one object per line, or of
    Microsoft's nlvr2.train.index.jsonl, or of lines with image, image2, text, label and identifier."""
    find = _finder(fields.root)
    ids = Unique("identifier")

    def statement(entry: Entry) -> list[Record]:
        line = entry.content
        if "sentence" in line and "identifier" in line and fields.image not in line:
            left, right = find(text_of(line, "identifier"), line.get("directory"))
            text = text_of(line, "sentence")
        else:
            left, right = (fields.root / fields.image_name(line, is_second) for is_second in (False, True))
            text = fields.text_in(line)
        identifier = line.get("identifier", entry.name)
        ids.add(identifier)
        metadata = {"identifier": str(identifier), "label": _label(line.get("label"))}
        return [Record(str(identifier), left, text, metadata=metadata, place=entry.place, image2=right)]

    return records_of_entries(json_lines(path), statement, _refusal(path, fields))


def _label(label: Any) -> int | None:
    """Return 1 for true, 0 for false, None for a test split. Raises EntryError for anything else."""
    found = LABELS.get(label.lower()) if isinstance(label, str) else label
    if label is not None and (found is None or found not in (0, 1)):
        raise EntryError(f"label is out of range ({label!r:.60} is neither true nor false)")
    return None if found is None else int(found)


def _finder(root: Path) -> Callable[[str, Any], tuple[Path, Path]]:
    """Return a function from identifier and directory of an entry of NLVR2 to its images.

    train-10171-0-0 of directory 36 is about images/train/36/train-10171-0-img0.png and -img1.png; dev-850-0-0 about
    dev/dev-850-0-img0.png. A root that holds the images themselves is found too.
    """
    is_folder = lru_cache(maxsize=None)(Path.is_dir)

    def find(identifier: str, directory: Any) -> tuple[Path, Path]:
        pair, dash, _ = identifier.rpartition("-")
        if not dash:
            raise EntryError(f"identifier does not end in the number of the statement ({identifier!r:.60})")
        split = identifier.partition("-")[0]
        numbered = (
            [f"images/{split}/{directory}", f"{split}/{directory}", str(directory)] if directory is not None else []
        )
        folders = (root / name for name in (*numbered, f"images/{split}", split))
        folder = next((folder for folder in folders if is_folder(folder)), root)
        return folder / f"{pair}-img0.png", folder / f"{pair}-img1.png"

    return find


def _refusal(path: Path, fields: AnnotatedFields) -> Callable[[str], Exception]:
    what = f"sentence and identifier (NLVR2) or with {fields.image!r}, 'image2' and {fields.text!r}"
    return lambda first: RefusedFileError(path, f"has no JSON lines with {what}", first)
