"""Decompressed bytes of files. Their first bytes decide whether and how they are compressed, not their names."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from data_pipeline.samples.records import cannot_be_read
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.files import COMPRESSIONS, require

LONGEST_ZSTD_WINDOW_BYTES = 1 << 31
"""Largest window that zstd --long=31 --ultra writes."""
MAX_LAYERS = 3
"""Maximum number of nested compressions: a .gz in a .gz is someone's mistake, ten are an attack."""
PEEKED_BYTES = 1 << 16
"""Number of bytes at the beginning of a stream that decide its type."""
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file, decompressed.

    Raises RefusedFileError if it is not a regular file, and, also while it is read, if it is truncated or corrupt.
    """
    if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
        raise RefusedFileError(path, "is not a regular file", remedy="write the output of a pipe to a file first")
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise RefusedFileError(path, "is a dangling link") from error
    except OSError as error:
        raise cannot_be_read(path, error) from error
    with file:
        yield decompressed(file, path.name, path)


def decompressed(stream: IO[bytes], name: str, place: Path | str) -> io.BufferedReader:
    """Return a stream without the compressions that its name or first bytes show. place: for messages."""
    checked = _checked(stream, place)
    suffix = os.path.splitext(name.lower())[1]
    for _ in range(MAX_LAYERS):
        beginning = checked.peek(PEEKED_BYTES)
        found = next((form for form, magic in _MAGIC.items() if magic.match(beginning)), None)
        if suffix in COMPRESSIONS and beginning:
            found = found or suffix  # its decompressor reports the problem
        if found is None:
            break
        checked, suffix = _checked(_decompressor(checked, found, place), place), ""
    return checked


def _decompressor(stream: io.BufferedReader, form: str, place: Path | str) -> IO[bytes]:
    if form == ".gz":
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]
    if form == ".bz2":
        return bz2.open(stream)
    if form == ".xz":
        return lzma.open(stream)
    return io.BufferedReader(_ZstdFile(stream, place))


def _checked(stream: IO[bytes], place: Path | str) -> io.BufferedReader:
    return io.BufferedReader(_CheckedStream(stream, place), PEEKED_BYTES)


class _CheckedStream(io.RawIOBase):
    """A stream whose errors are replaced by ours, with the name of the file."""

    def __init__(self, stream: IO[bytes], place: Path | str) -> None:
        self.stream, self.place = stream, place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.stream.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # decompressors' errors have none
                raise cannot_be_read(self.place, error) from error
            raise RefusedFileError(
                self.place, "breaks off or is corrupt", str(error), remedy="download it again"
            ) from error
        buffer[: len(content)] = content
        return len(content)


class _ZstdFile(io.RawIOBase):
    """All frames of a stream. Raises OSError if one is truncated, which zstandard's own reader takes for the end."""

    def __init__(self, stream: IO[bytes], place: Path | str) -> None:
        self.chunks = _zstd_chunks(stream, place)
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


_ZSTD_CHUNK_BYTES = 1 << 13
"""Compressed bytes per read: a bomb can expand them 15,000 times."""


def _zstd_chunks(stream: IO[bytes], place: Path | str) -> Generator[bytes, None, None]:
    zstandard = require("zstandard", f"to read {place}")
    decompressor = zstandard.ZstdDecompressor(max_window_size=LONGEST_ZSTD_WINDOW_BYTES)
    frame, is_inside = decompressor.decompressobj(), False
    while compressed := stream.read(_ZSTD_CHUNK_BYTES):
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
