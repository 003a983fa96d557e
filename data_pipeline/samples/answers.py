"""Lists of answers and of classes: files beside the shards that give each output of a head its meaning.

    answer2label.txt    {"answer": "yes", "label": 0}   one line per answer, in the order of the labels
    classes.txt         {"class": "n01440764", "label": 0}

The first is the file that Microsoft's finetuning code makes and reads (beit3/datasets.py), the second is like it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.samples.sample import Kind

ANSWERS_NAME = "answer2label.txt"
CLASSES_NAME = "classes.txt"
MAX_LIST_BYTES = 1 << 28
"""Larger files are not lists of answers or classes."""


def read_answers(path: Path) -> list[str]:
    """Return the answers of a list, in the order of their labels. Raises ValueError if the file is not one."""
    return _read(path, "answer")


def read_classes(path: Path) -> list[str]:
    """Return the classes of a list, in the order of their labels. Raises ValueError if the file is not one."""
    return _read(path, "class")


def read_list_beside(folder: Path, kind: Kind) -> list[str] | None:
    """Return the answers or classes in the list beside shards of a kind; None if there is no list.

    Raises ValueError if it is damaged.
    """
    read = {"vqa": read_answers, "label": read_classes}.get(kind)
    path = folder / (ANSWERS_NAME if kind == "vqa" else CLASSES_NAME)
    return read(path) if read is not None and path.is_file() else None


def answer_lines(answers: Sequence[str]) -> str:
    """Return the content of a list of answers; the label of an answer is its place."""
    return _lines("answer", answers)


def class_lines(classes: Sequence[str]) -> str:
    """Return the content of a list of classes; the label of a class is its place."""
    return _lines("class", classes)


def label_list(kind: Kind, names: Sequence[str]) -> tuple[str, str]:
    """Return the name and the content of the list that lies beside shards of kind vqa or label."""
    return (ANSWERS_NAME, answer_lines(names)) if kind == "vqa" else (CLASSES_NAME, class_lines(names))


def _lines(field: str, names: Sequence[str]) -> str:
    return "".join(json.dumps({field: name, "label": label}) + "\n" for label, name in enumerate(names))


def _read(path: Path, field: str) -> list[str]:
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise ValueError(f"list {path} {problem}; data_pipeline.write_shards writes it beside the shards")
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ValueError(f"{path} has more than {MAX_LIST_BYTES} bytes, which no list of {field}s has; give another")
    names: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines()):
        name = _name_in(line, field, number)
        if name is None:
            raise ValueError(
                f'{path}:{number + 1} is not {{"{field}": ..., "label": {number}}}; restore the list, or give another'
            )
        if name in names:
            raise ValueError(
                f"{path}:{number + 1} repeats the {field} {name!r:.60} of line {names[name] + 1}; remove one"
            )
        names[name] = number
    if not names:
        raise ValueError(f"{path} holds no {field}; give another list")
    return list(names)


def _name_in(line: bytes, field: str, label: int) -> str | None:
    """Return the name in a line of a list; None if the line is not that of this label."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        return None
    return entry[field] if str(entry.get("label")) == str(label) else None
