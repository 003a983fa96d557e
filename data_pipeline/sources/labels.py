"""Images with a class: class folders, ImageNet's tar of tars, Microsoft's index files, and JSON lines."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data_pipeline.samples.records import Record
from data_pipeline.sources.annotated import AnnotatedFields
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError, records_of_entries
from data_pipeline.sources.files import form
from data_pipeline.sources.images import images_of_folder, images_of_tar
from data_pipeline.sources.text_lines import json_lines

NO_CLASS = "image lies in no class folder"
NUMBER = re.compile("[0-9]{1,18}")


def images_with_classes(path: Path, fields: AnnotatedFields, classes: list[str] | None) -> Iterator[Record]:
    """Yield the images of a folder of class folders, of ImageNet's tar of tars, or of JSON lines, each with the name of
    its class.

    classes: the class list, in which a number in JSON lines is the place of a name; if there is none, or if its names
    are numbers, a number is its own name.
    """
    if path.is_dir() or form(path) == ".tar":
        for record in images_of_folder(path) if path.is_dir() else images_of_tar(path):
            is_nameless = record.problem is None and "class" not in record.metadata
            yield replace(record, problem=NO_CLASS) if is_nameless else record
        return
    yield from _images_of_json_lines(path, fields, classes)


def labelled(record: Record, labels: dict[str, int]) -> Record:
    """Return a record of an image with the label of its class, or with a problem if the class is not in the list."""
    if record.problem is not None:
        return record
    name = record.metadata["class"]
    if name not in labels:
        return replace(record, problem=f"class is not in the class list ({name!r:.60})")
    return replace(record, metadata={**record.metadata, "label": labels[name]})


def sorted_classes(names: set[str]) -> list[str]:
    """Return classes in the order of their labels: that of their names, as Microsoft's code has it, or of numbers."""
    by_name = sorted(names)  # 1 and 01 are the same number
    return sorted(by_name, key=int) if all(NUMBER.fullmatch(name) for name in names) else by_name


def _images_of_json_lines(path: Path, fields: AnnotatedFields, classes: list[str] | None) -> Iterator[Record]:
    """Yield the images of Microsoft's imagenet.train.index.jsonl (image_path, label), or of lines with image and label,
    where the label is a number or the name of a class."""
    # numbers that are names, as in a list that was made from them, need not begin at 0
    are_names = classes is None or all(NUMBER.fullmatch(name) for name in classes)

    def image(entry: Entry) -> list[Record]:
        name = fields.image_name(entry.content)
        label = entry.content.get("label", entry.content.get("class"))
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise EntryError(f"label is neither a number nor the name of a class ({label!r:.60})")
        if isinstance(label, int) and label < 0:
            raise EntryError(f"label is out of range ({label})")
        known = str(label)
        if isinstance(label, int) and classes is not None and not are_names:
            if label >= len(classes):
                raise EntryError(f"label is out of range ({label} of {len(classes)} classes)")
            known = classes[label]
        return [Record(name, _image_path(fields.root, name), metadata={"class": known}, place=entry.place)]

    def refusal(first: str) -> Exception:
        return RefusedFileError(path, f"has no JSON lines with {fields.image!r} and 'label'", first)

    return records_of_entries(json_lines(path), image, refusal)


def _image_path(root: Path, name: str) -> Path:
    """Return the path of an image: names in Microsoft's index begin with a slash and are relative to the root."""
    below = root / name.lstrip("/")
    return Path(name) if name.startswith("/") and not below.exists() else below
