"""Lines of text files: encodings, lines that are too long, and files that are not text."""

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
"""Maximum characters of a line. A longer line is skipped: a few compressed bytes can expand beyond any memory."""
LONGEST_SKIPPED_LINE = 1 << 32
"""Maximum characters of a skipped line. A file with a longer one is refused."""
LARGEST_JSON = 1 << 31
"""Maximum characters of a JSON file, which is read as a whole."""
LONG_LINE_PROBLEM = f"line is longer than {LONGEST_LINE} characters"
MAX_UNREADABLE = 0.1
"""A file whose beginning has a larger fraction of control characters is not text."""

_BYTE_ORDER_MARKS = {  # UTF-32's first: it begins with UTF-16's
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
"""Binary formats by their first bytes. Others are recognized by NULs and control characters."""
_CONTROL_CHARACTERS = bytes({*range(32)} - {*b"\t\n\r\f\x1b"})


class LongLine(str):
    """The beginning of a line that is longer than LONGEST_LINE; the rest was skipped."""


@contextmanager
def open_text(path: Path, newline: str = "\n") -> Iterator["TextLines"]:
    """Open the lines of a file, plain or compressed. Raises RefusedFileError if it is not text, or is damaged."""
    with open_bytes(path) as stream:
        yield TextLines(stream, path, newline)


class TextLines:
    """The lines of a stream in UTF-8, or in the encoding of its byte-order mark.

    Invalid bytes become lone surrogates, which filters detect. Raises RefusedFileError for bytes that are not text.
    """

    def __init__(self, stream: io.BufferedReader, place: Path | str, newline: str = "\n") -> None:
        beginning = stream.peek(PEEKED_BYTES)
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if beginning.startswith(mark)), None)
        if encoding is None and (found := binary_form(beginning)):
            raise RefusedFileError(place, "is not text", found)
        errors = "surrogateescape" if encoding is None else _LONE_SURROGATES
        self.first_character = beginning.decode(encoding or "utf-8-sig", "ignore").lstrip()[:1]
        """First character that is not blank."""
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
        """Return the whole text. Raises RefusedFileError if it is too long."""
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
    """Return the format of bytes that are not text in UTF-8 or an 8-bit encoding; empty for text."""
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
    """Return whether a file begins with a tar header, with or without a magic number."""
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
    """Yield the object of each non-blank line."""
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
        return None, f"line is not valid JSON ({error})"
    return content, "" if isinstance(content, dict) else "line is not a JSON object"


def text_of(line: dict[str, Any], field: str) -> str:
    """Return the text in a field of a JSON line. Raises EntryError, with the value found, if it is not text."""
    value = line.get(field)
    if isinstance(value, str):
        return value
    found = f"{value!r:.60}" if field in line else f"it has: {', '.join(line):.200}"
    raise EntryError(f"line has no text in field {field!r} ({found})")
