"""Files of JSON lines that a run appends to and reads back. Damaged lines are set aside with a warning.

Damage comes from outside: a crash of the machine (pages of NUL bytes, half a line), an editor, another program.
"""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_pipeline.files.retries import written_with_retries
from pretrain.survival.agreement import in_words
from pretrain.survival.console import warn

MAX_LINE_BYTES = 1 << 26
"""A longer line counts as damaged. The sample keys of the largest batches take about a million bytes."""
_BLANK = b"\0 \t\r\n"


@dataclass(frozen=True)
class Line:
    """A line of a file, or a part of a line that is too long."""

    number: int
    """Counted from 1."""
    start: int
    """Offset of its first byte in the file."""
    size: int
    """In bytes, with the newline."""
    content: bytes
    record: dict[str, Any]
    """Empty if the line is not a JSON object."""


def append_whole(file: io.FileIO, content: bytes) -> None:
    """Append the whole content, or nothing. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(size)
        raise


def read_records(path: Path, is_sound: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the sound records of a file in the order of its lines; [] if there is no file.

    is_sound: whether a JSON object has the fields that its readers rely on. Raises OSError.
    """
    return [line.record for line in _lines(path) if line.record and is_sound(line.record)]


def restore_lines(
    path: Path,
    is_sound: Callable[[dict[str, Any]], bool],
    key: Callable[[dict[str, Any]], object],
    first_step: int,
) -> list[dict[str, Any]]:
    """Reduce a file to the lines before first_step, at which a run resumes, and return them.

    Kept is the first sound line of each key, in the order of their steps. Lines of later steps are dropped, since the
    run takes these steps again. All others are moved to NAME.damaged-N.jsonl, with a warning. Raises OSError.
    """
    kept: dict[object, Line] = {}
    damaged: list[Line] = []
    for line in _lines(path):
        is_usable = line.record and is_sound(line.record)
        if is_usable and line.record["step"] >= first_step:
            continue
        if not is_usable or kept.setdefault(key(line.record), line) is not line:
            damaged.append(replace(line, content=b"", record={}))  # it may be huge
    lines = sorted(kept.values(), key=lambda line: line.record["step"])
    if path.exists():
        aside = written_with_retries(lambda: _set_aside(path, damaged), path.parent) if damaged else None
        content = b"".join(line.content + b"\n" for line in lines)
        written_with_retries(lambda: _replace(path, content), path)
        if aside is not None:
            warn(
                f"warning: {path} has {len(damaged)} damaged or duplicate line{'s' * (len(damaged) > 1)}, the first in "
                f"line {damaged[0].number}; set aside in {aside.name}, the others are kept"
            )
    return [line.record for line in lines]


def _lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file. Raises OSError, in a sentence, if it exists and cannot be read."""
    try:
        with path.open("rb") as file:
            number, start, is_within = 1, 0, False
            while content := file.readline(MAX_LINE_BYTES):
                size, is_part, is_within = len(content), is_within, not content.endswith(b"\n")
                is_whole = not is_part and (not is_within or size < MAX_LINE_BYTES)
                text = content.strip(_BLANK) if is_whole else b""
                yield Line(number, start, size, text, _record(text))
                number, start = number + (not is_within), start + size
    except FileNotFoundError:
        return
    except OSError as error:
        remedy = "make it readable, or move it away, and start again"
        raise in_words(error, f"{path} cannot be read ({error.strerror}); {remedy}") from error


def _record(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text.decode())
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return {}
    return record if isinstance(record, dict) else {}


def _set_aside(path: Path, damaged: list[Line]) -> Path:
    """Copy lines to a new file beside this one; return it. Raises OSError."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")).exists():
        number += 1
    with path.open("rb") as source, aside.open("xb") as file:
        for line in damaged:
            source.seek(line.start)
            file.write(source.read(line.size))
        file.flush()
        os.fsync(file.fileno())
    return aside


def _replace(path: Path, content: bytes) -> None:
    """Replace a file at once: the new content is on disk before it takes the name, so a crash leaves one or the other.

    Raises OSError.
    """
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
