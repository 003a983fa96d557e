"""Where samples come from: the drawn world, or files.

| SOURCE              | kind image          | kind pair                        | kind text              |
| ------------------- | ------------------- | -------------------------------- | ---------------------- |
| scenes:COUNT[:SEED] | drawn images        | drawn images with captions       | sentences of the world |
| a folder            | its image files     | -                                | -                      |
| a .jsonl file       | its "image" paths   | its "image" paths and "caption"s | its "text" documents   |
| a .txt file         | -                   | -                                | one document a line    |

Image paths in a .jsonl file are relative to it. The held-out part of files is chosen by a hash of the image path
(or of the document's number), so that all captions of an image fall on one side; that of the drawn world by
composition.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.samples import IMAGE_EXTENSIONS, Kind, Sample
from data_pipeline.scenes import Split, draw_samples


def read_source(kind: Kind, source: str, split: Split, held_out_fraction: float) -> Iterator[Sample]:
    """The samples of a source that belong to the split, in a fixed order.

    Raises ValueError for a source that does not exist or does not give this kind.
    """
    if source.startswith("scenes:"):
        count, seed = _scenes_arguments(source)
        yield from draw_samples(kind, count, seed, split)
        return
    path = Path(source)
    if not path.exists():
        raise ValueError(f"source {source} does not exist; give a folder, a .jsonl or .txt file, or scenes:COUNT")
    for sample in _reader(kind, path)(path):
        if _is_held_out(sample.split_by or sample.key, held_out_fraction) == (split == "held_out"):
            yield sample


def _scenes_arguments(source: str) -> tuple[int, int]:
    numbers = source.split(":")[1:]
    if not all(number.isdigit() for number in numbers) or len(numbers) not in (1, 2):
        raise ValueError(f"source {source!r} must read scenes:COUNT or scenes:COUNT:SEED")
    return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0


def _reader(kind: Kind, path: Path) -> Callable[[Path], Iterator[Sample]]:
    readers: dict[tuple[Kind, str], Callable[[Path], Iterator[Sample]]] = {
        ("image", ""): _images_of_folder,
        ("image", ".jsonl"): _images_of_jsonl,
        ("pair", ".jsonl"): _pairs_of_jsonl,
        ("text", ".jsonl"): _texts_of_jsonl,
        ("text", ".txt"): _texts_of_lines,
    }
    form = "" if path.is_dir() else path.suffix
    if (kind, form) not in readers:
        raise ValueError(
            f"source {path} gives no samples of kind {kind!r}; see python -m data_pipeline.write_shards -h"
        )
    return readers[kind, form]


def _is_held_out(key: str, fraction: float) -> bool:
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < fraction * 2**32


def _images_of_folder(folder: Path) -> Iterator[Sample]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS:
            yield _image(path, str(path.relative_to(folder)))


def _images_of_jsonl(path: Path) -> Iterator[Sample]:
    seen: set[str] = set()
    for _, record in _records(path, "image"):
        if record["image"] not in seen:  # an image with several captions
            seen.add(record["image"])
            yield _image(path.parent / record["image"], record["image"])


def _pairs_of_jsonl(path: Path) -> Iterator[Sample]:
    for number, record in _records(path, "image", "caption"):
        image = _image(path.parent / record["image"], record["image"])
        key = f"{image.key}_{number:08d}"  # an image may have several captions
        yield Sample(key, image.image, image.image_extension, text=record["caption"], split_by=image.split_by)


def _texts_of_jsonl(path: Path) -> Iterator[Sample]:
    for number, record in _records(path, "text"):
        yield Sample(key=f"{_key(path.stem)}_{number:08d}", text=record["text"])


def _texts_of_lines(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if line.strip():
                yield Sample(key=f"{_key(path.stem)}_{number:08d}", text=line.strip())


def _records(path: Path, *fields: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number + 1} of {path} is no JSON ({error})") from error
            missing = [name for name in fields if not isinstance(record.get(name), str)]
            if missing:
                raise ValueError(f"line {number + 1} of {path} has no text in field {missing[0]!r}")
            yield number, record


def _image(path: Path, name: str) -> Sample:
    if not path.is_file():
        raise ValueError(f"image {path} does not exist; correct the path in the source")
    return Sample(_key(name), path.read_bytes(), path.suffix.lower().lstrip("."), split_by=name)


def _key(name: str) -> str:
    """A path as a WebDataset key: no dot, no slash; the extension goes."""
    return str(Path(name).with_suffix("")).replace("/", "_").replace(".", "_")
