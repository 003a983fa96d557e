"""What every source is made of: folders of files, and lines of text, plain or compressed."""

import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from data_pipeline.sources.records import Record

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
LONGEST_ZSTD_WINDOW_BYTES = 1 << 31
"""What zstd --long=31 --ultra writes at most."""
_CHUNK_BYTES = 1 << 16


def walk(folder: Path) -> Iterator[str]:
    """The files of a folder at any depth, lazily, as relative paths in the order of these strings.

    Links to folders are followed unless they lead back to a folder above; a link to nothing is a file that cannot be
    read. Raises OSError where a folder cannot be listed.
    """
    return _walk(os.fspath(folder), "", frozenset())


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:  # names alone: the entries of a folder of 14 million files fill gigabytes
        names = sorted(name for entry in entries if (name := _name(entry)))
    for name in names:
        if name.endswith("/"):
            yield from _walk(os.path.join(folder, name), prefix + name, above | {here})
        else:
            yield prefix + name


def _name(entry: os.DirEntry[str]) -> str:
    """Of a folder with a slash, which puts what it holds in its place among the files; of a device or pipe nothing."""
    if entry.is_dir():
        return f"{entry.name}/"
    return entry.name if entry.is_file() or not os.path.exists(entry) else ""


def form(path: Path | str) -> str:
    """The suffix that says what is inside, without that of the compression: 'a.jsonl.gz' -> '.jsonl'."""
    stem, suffix = os.path.splitext(os.fspath(path).lower())
    return form(stem) if suffix in COMPRESSIONS else suffix


@contextmanager
def open_text(path: Path, newline: str = "\n") -> Iterator[IO[str]]:
    """UTF-8 lines of a file, plain or compressed. What is not UTF-8 becomes lone surrogates, which filters can see.

    Raises ValueError where the file breaks off or is corrupt, there or while it is read.
    """
    try:
        with io.TextIOWrapper(_open(path), "utf-8-sig", errors="surrogateescape", newline=newline) as lines:
            yield lines
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; decompressors give no number
            raise
        raise ValueError(f"{path} breaks off or is corrupt ({error}); download it again") from error


def _open(path: Path) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile | io.BufferedReader:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path)
    if suffix == ".bz2":
        return bz2.open(path)
    if suffix == ".xz":
        return lzma.open(path)
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path))
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """All frames of a file. Raises OSError where one breaks off, which zstandard's own reader takes for the end."""

    def __init__(self, path: Path) -> None:
        self.chunks = _zstd_chunks(path)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.rest = memoryview(chunk)
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size

    def close(self) -> None:
        self.chunks.close()
        super().close()


def _zstd_chunks(path: Path) -> Generator[bytes, None, None]:
    zstandard = require("zstandard", f"to read {path}")
    decompressor = zstandard.ZstdDecompressor(max_window_size=LONGEST_ZSTD_WINDOW_BYTES)
    frame, is_inside = decompressor.decompressobj(), False
    with path.open("rb") as file:
        while compressed := file.read(_CHUNK_BYTES):
            while compressed:
                try:
                    yield frame.decompress(compressed)
                except zstandard.ZstdError as error:
                    raise OSError(str(error)) from error
                compressed, is_inside = frame.unused_data, not frame.eof
                if frame.eof:
                    frame = decompressor.decompressobj()
    if is_inside:
        raise OSError("the last frame is not complete")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 0, and object. Raises ValueError, naming the line, where a line is none."""
    with open_text(path) as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number + 1} of {path} is no JSON ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"line {number + 1} of {path} is no JSON object")
            yield number, record


def line_without_text(path: Path, number: int, line: dict[str, Any], column: str) -> Record:
    """What becomes of a line of JSON that has no text in a field: it is skipped, unless it is the first.

    Raises ValueError for the first, where not a null but the name of the field is wrong.
    """
    if number == 0 and not isinstance(line.get(column, 0), list | None):
        raise ValueError(
            f"line 1 of {path} has no text in field {column!r} but has {', '.join(line)}; name it by --image-column, "
            f"--caption-column or --text-column"
        )
    return Record(f"{number:08d}", problem=f"line has no text in field {column!r}")


def require(package: str, purpose: str) -> ModuleType:
    """An optional package. Raises ValueError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} is needed {purpose}; pip install {package.split('.')[0]}") from error
