"""JSON objects that hold the path of an image and its caption or captions: in a list, or one per line."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_pipeline.samples.records import Record
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, records_of_entries
from data_pipeline.sources.text_lines import json_lines, text_of

Fields = tuple[str, str]
"""Names of the fields of an entry with the path of the image and with its caption or captions."""
URL_PROBLEM = "image is a URL ({:.200}): download such lists with img2dataset, whose shards index_shards reads"


def pairs_of_list(
    content: list[Any], path: Path, root: Path, fields: Fields, refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield the pairs of [{"image": "a.jpg", "caption": "..."}, ...]; a caption may be a list, as in ALBEF and BLIP."""
    entries = [Entry(f"{n:08d}", f"{path}: [{n}]", element) for n, element in enumerate(content)]
    if not entries:
        raise refusal("it is empty")
    return records_of_entries(entries, partial(_pairs_of_object, root=root, fields=fields), refusal)


def pairs_of_json_lines(path: Path, root: Path, fields: Fields) -> Iterator[Record]:
    """Yield the pairs of JSON lines with an image path and a caption, or a list of captions."""
    refusal = json_refusal(path, f"with an image path in field {fields[0]!r} and text in field {fields[1]!r}")
    return records_of_entries(json_lines(path), partial(_pairs_of_object, root=root, fields=fields), refusal)


def json_refusal(path: Path, what: str) -> Callable[[str], Exception]:
    """Return a function from the problem of the first entry to the error for a file of another layout."""
    remedy = "name the fields with --image-column and --caption-column"
    return lambda first: RefusedFileError(path, f"has no JSON lines {what}", first, remedy)


def _pairs_of_object(entry: Entry, root: Path, fields: Fields) -> Iterator[Record]:
    line, place = entry.content, entry.place
    if not isinstance(line, dict):
        raise EntryError("entry is not a JSON object")
    image_field, caption_field = fields
    name, found = image_path_of(line, image_field), line.get(caption_field)
    if isinstance(found, str):
        yield Record(name, root / name, found, place=place)
        return
    if not isinstance(found, list) or not any(isinstance(caption, str) for caption in found):
        text_of(line, caption_field)  # raises
    for number, caption in enumerate(found or ()):
        if isinstance(caption, str):
            yield Record(name, root / name, caption, number, place=place)
        else:
            problem = f"line has no text in field {caption_field!r} (element {number} of its list)"
            yield Record(entry.name, problem=problem, place=place)


def image_path_of(line: dict[str, Any], field: str) -> str:
    """Return the image path in a line. Raises EntryError if there is none, or a URL."""
    name = text_of(line, field)
    if is_url(name):
        raise EntryError(URL_PROBLEM.format(name))
    return name


def is_url(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))
