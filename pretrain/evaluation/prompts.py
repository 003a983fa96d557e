"""Class names and prompt templates: how the classes of labelled images become texts for a dual encoder.

Classification is then image-to-text retrieval, as the paper has it for ImageNet (arXiv 2208.10442, Table 17): an image
belongs to the class whose texts, on average over the templates, are nearest to it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from model.weight_files import read_json_object

DEFAULT_TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a photo of many {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
)
"""Our own short list; another, such as CLIP's 80 for ImageNet, is given as a file."""
PLACE = "{}"
"""Stands for the name of the class in a template."""
WORDNET_ID = re.compile(r"n\d{8}")
"""Form of ImageNet's folder names, which are not words."""
CLASS_NAMES, TEMPLATES = "evaluation.class_names", "evaluation.templates"


def read_class_names(path: Path | None, classes: Sequence[str]) -> list[str]:
    """Return a name for each class of labelled images, in their order.

    path: a JSON file {"class": "name", ...}, or a text file with one name per line in the order of the sorted classes;
    None for the classes themselves, with spaces instead of underscores. classes: sorted. Raises ValueError if the file
    does not name each class.
    """
    if path is None:
        unnamed = [name for name in classes if WORDNET_ID.fullmatch(name)]
        if unnamed:
            raise ValueError(
                f"the class {unnamed[0]} is not a word; give {CLASS_NAMES} a file with a name for each class, or leave "
                "zero_shot out of evaluation.parts"
            )
        return [name.replace("_", " ") for name in classes]
    return _named_in_json(path, classes) if path.suffix == ".json" else _named_in_lines(path, classes)


def read_templates(path: Path | None) -> tuple[str, ...]:
    """Return the templates in a text file, one per line, None for the default ones.

    Raises ValueError for a line without {}, which stands for the name of the class.
    """
    if path is None:
        return DEFAULT_TEMPLATES
    lines = _lines(path, TEMPLATES)
    for number, line in lines.items():
        if PLACE not in line:
            raise ValueError(
                f"{TEMPLATES} {path}: line {number} has no {PLACE} for the name of the class ({line[:100]!r}); add it"
            )
    return tuple(lines.values())


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the texts of all classes, those of one class beside each other."""
    return [template.replace(PLACE, name) for name in names for template in templates]


def _named_in_json(path: Path, classes: Sequence[str]) -> list[str]:
    _check_there(path, CLASS_NAMES)
    names = read_json_object(path)
    for name in classes:
        if not isinstance(names.get(name), str) or not names[name].strip():
            raise ValueError(f'{CLASS_NAMES} {path} has no name for the class {name!r}; add it as {{"{name}": "..."}}')
    return [names[name].strip() for name in classes]


def _named_in_lines(path: Path, classes: Sequence[str]) -> list[str]:
    names = list(_lines(path, CLASS_NAMES).values())
    if len(names) != len(classes):
        raise ValueError(
            f"{CLASS_NAMES} {path} has {len(names)} names for {len(classes)} classes; give one per line, in the order "
            "of the sorted classes"
        )
    return names


def _lines(path: Path, setting: str) -> dict[int, str]:
    """Return the lines that are not blank, by their numbers from 1. Raises ValueError if there is none."""
    _check_there(path, setting)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting} {path} is not UTF-8; save it as UTF-8") from error
    found = {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    if not found:
        raise ValueError(f"{setting} {path} is empty; give one entry per line")
    return found


def _check_there(path: Path, setting: str) -> None:
    if not path.is_file():
        raise ValueError(f"{setting} {path} does not exist; give a file")
