"""Class names and prompt templates: how the classes of labelled images become texts for a dual encoder.

Classification is then image-to-text retrieval, as the paper has it for ImageNet (arXiv 2208.10442, Table 17): an image
belongs to the class whose texts, on average over the templates, are nearest to it. In training an image is paired with
one of them.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

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
MAX_BYTES = 1 << 26
"""Larger files are not lists of names or of templates."""
Section = Literal["data", "evaluation"]
"""Settings that name a file, for messages: those of training, or those of its evaluation."""


def read_class_names(path: Path | None, classes: Sequence[str], section: Section = "evaluation") -> list[str]:
    """Return a name for each class of labelled images, in their order.

    path: a JSON file {"class": "name", ...}, or a text file with one name per line in the order of the sorted classes;
    None for the classes themselves, with spaces instead of underscores. classes: sorted. Raises ValueError if the file
    does not name each class.
    """
    setting = f"{section}.class_names"
    if path is None:
        unnamed = [name for name in classes if WORDNET_ID.fullmatch(name)]
        if unnamed:
            remedy = ", or leave zero_shot out of evaluation.parts" * (section == "evaluation")
            raise ValueError(
                f"the class {unnamed[0]} is not a word; give {setting} a file with a name for each class{remedy}"
            )
        return [name.replace("_", " ") for name in classes]
    if path.suffix == ".json":
        return _named_in_json(path, classes, setting)
    names = list(_lines(path, setting).values())
    if len(names) != len(classes):
        raise ValueError(
            f"{setting} {path} has {len(names)} names for {len(classes)} classes; give one per line, in the order of "
            "the sorted classes"
        )
    return names


def read_templates(path: Path | None, section: Section = "evaluation") -> tuple[str, ...]:
    """Return the templates in a text file, one per line, None for the default ones.

    Raises ValueError for a line without {}, which stands for the name of the class.
    """
    if path is None:
        return DEFAULT_TEMPLATES
    setting = f"{section}.templates"
    lines = _lines(path, setting)
    for number, line in lines.items():
        if PLACE not in line:
            raise ValueError(
                f"{setting} {path}: line {number} has no {PLACE} for the name of the class ({line[:100]!r}); add it"
            )
    return tuple(lines.values())


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Return the texts of all classes, those of one class beside each other."""
    return [template.replace(PLACE, name) for name in names for template in templates]


def _named_in_json(path: Path, classes: Sequence[str], setting: str) -> list[str]:
    try:
        names = json.loads(_content(path, setting))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{setting} {path} is not valid JSON ({error}); write it again") from error
    for name in classes:
        found = names.get(name) if isinstance(names, dict) else None
        if not isinstance(found, str) or not found.strip():
            raise ValueError(f'{setting} {path} has no name for the class {name!r}; add it as {{"{name}": "..."}}')
    return [names[name].strip() for name in classes]


def _lines(path: Path, setting: str) -> dict[int, str]:
    """Return the lines that are not blank, by their numbers from 1. Raises ValueError if there is none."""
    try:
        text = _content(path, setting).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting} {path} is not UTF-8; save it as UTF-8") from error
    found = {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    if not found:
        raise ValueError(f"{setting} {path} is empty; give one entry per line")
    return found


def _content(path: Path, setting: str) -> bytes:
    if not path.is_file():
        raise ValueError(f"{setting} {path} does not exist; give a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{setting} {path} has more than {MAX_BYTES} bytes, the limit for such a file; give another")
    return path.read_bytes()
