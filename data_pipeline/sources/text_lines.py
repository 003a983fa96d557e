"""Lines of text from bytes that ought to be text: in which encoding, how long, and whether they are text at all."""

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from data_pipeline.shards.tar_members import BLOCK_BYTES
from data_pipeline.sources.compression import PEEKED_BYTES, open_bytes
from data_pipeline.sources.entries import Entry, EntryError, RefusedFileError

LONGEST_LINE = 1 << 26
"""Characters. A longer line is one sample to skip: no memory holds what a decompressor can make of a few bytes."""
LONGEST_SKIPPED_LINE = 1 << 32
"""Characters. A file with a longer one is given up."""
LARGEST_JSON = 1 << 31
"""Characters of a JSON file, which is read as a whole."""
LONG_LINE_PROBLEM = f"line is longer than {LONGEST_LINE} characters"
MAX_UNREADABLE = 0.1
"""Text in UTF-8 with a larger part of control characters in its beginning is none."""

_BYTE_ORDER_MARKS = {  # UTF-32's first: it begins as that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY = {
    b"%PDF-": "a PDF",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF file, such as WebP",
    b"PK\x03\x04": "a ZIP archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x7fELF": "a program",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "a SQLite database",
    b"\x93NUMPY": "a NumPy array",
    b"%!PS": "PostScript",
    b"{\\rtf": "RTF",
}
"""By first bytes. What is missing here shows by its NULs and control characters."""
_CONTROL_CHARACTERS = bytes({*range(32)} - {*b"\t\n\r\f\x1b"})


class LongLine(str):
    """The beginning of a line that is longer than LONGEST_LINE, whose rest was passed over."""


@contextmanager
def open_text(path: Path, newline: str = "\n") -> Iterator["TextLines"]:
    """The lines of a file, plain or compressed. Raises RefusedFileError if it is not text, or damaged."""
    with open_bytes(path) as stream:
        yield TextLines(stream, path, newline)


class TextLines:
    """The lines of a stream, in UTF-8 or what its byte-order mark tells.

    What cannot be decoded becomes lone surrogates, which filters can see. Raises RefusedFileError for bytes that are no
    text.
    """

    def __init__(self, stream: io.BufferedReader, place: Path | str, newline: str = "\n") -> None:
        beginning = stream.peek(PEEKED_BYTES)
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), None)
        if encoding is None and (found := binary_form(beginning)):
            raise RefusedFileError(place, "is not text", found)
        errors = "surrogateescape" if encoding is None else _LONE_SURROGATES
        self.first_character = beginning.decode(encoding or "utf-8-sig", "ignore").lstrip()[:1]
        """That is not blank."""
        self.text = io.TextIOWrapper(stream, encoding or "utf-8-sig", errors=errors, newline=newline)
        self.place = place

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(iter(partial(self.text.readline, LONGEST_LINE), ""), 1):
            if len(line) == LONGEST_LINE and not line.endswith("\n"):
                self._skip_line(number)
                yield LongLine(line[:100])
            else:
                yield line

    def read(self) -> str:
        """All of it."""
        text = self.text.read(LARGEST_JSON)
        if len(text) == LARGEST_JSON:
            raise RefusedFileError(self.place, f"is longer than {LARGEST_JSON} characters", remedy="use JSON lines")
        return text

    def _skip_line(self, number: int) -> None:
        for _ in range(LONGEST_SKIPPED_LINE // LONGEST_LINE):
            rest = self.text.readline(LONGEST_LINE)
            if len(rest) < LONGEST_LINE or rest.endswith("\n"):
                return
        raise RefusedFileError(
            self.place, "is not text", f"line {number} is longer than {LONGEST_SKIPPED_LINE} characters"
        )


def binary_form(beginning: bytes) -> str:
    """What the bytes are if they are not text in UTF-8 or an encoding of 8 bits; nothing for text."""
    for magic, name in _BINARY.items():
        if beginning.startswith(magic):
            return name
    if is_tar(beginning):
        return "a tar archive"
    if b"\0" in beginning:
        return f"byte {beginning.index(0)} is NUL"
    num_unreadable = len(beginning) - len(beginning.translate(None, _CONTROL_CHARACTERS))
    return "control characters" if num_unreadable > MAX_UNREADABLE * len(beginning) else ""


def is_tar(beginning: bytes | bytearray) -> bool:
    """Does a file begin with the header of a tar, also of one so old that it has no magic number?"""
    if beginning[257:262] == b"ustar":
        return True
    checksum = beginning[148:156].strip(b"\0 ")
    if len(beginning) < BLOCK_BYTES or not checksum.isdigit() or not 0 < len(checksum) < 7:
        return False
    counted = sum(beginning[:148]) + 8 * ord(" ") + sum(beginning[156:BLOCK_BYTES])
    return checksum == b"%0*o" % (len(checksum), counted)


_LONE_SURROGATES = "imglish-lone-surrogates"
codecs.register_error(_LONE_SURROGATES, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def json_lines(path: Path) -> Iterator[Entry]:
    with open_text(path) as lines:
        yield from json_entries(lines, path)


def json_entries(lines: Iterable[str], place: Path | str) -> Iterator[Entry]:
    """The object of each line that is not blank."""
    for number, line in enumerate(lines):
        if line.strip():
            content, problem = _parsed(line)
            yield Entry(f"{number:08d}", f"{place}:{number + 1}", content, problem)


def _parsed(line: str) -> tuple[Any, str]:
    if isinstance(line, LongLine):
        return None, LONG_LINE_PROBLEM
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"line is no JSON ({error})"
    return content, "" if isinstance(content, dict) else "line is no JSON object"


def text_of(line: dict[str, Any], field: str) -> str:
    """A field of a line of JSON. Raises EntryError, saying what is there instead, if it has no text."""
    value = line.get(field)
    if isinstance(value, str):
        return value
    found = f"{value!r:.60}" if field in line else f"but {', '.join(line):.200}"
    raise EntryError(f"line has no text in field {field!r} ({found})")
