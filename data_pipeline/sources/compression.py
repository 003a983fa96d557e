"""Bytes of a file as they were before it was compressed, told by its first bytes, whatever it is named."""

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
"""What zstd --long=31 --ultra writes at most."""
MAX_LAYERS = 3
"""Compressions of a file inside each other that are undone: a .gz of a .gz is someone's mistake, ten are an attack."""
PEEKED_BYTES = 1 << 16
"""Of the beginning of a stream, to tell what it is."""
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b\x08"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """A file, decompressed.

    Raises RefusedFileError if it is no regular file, or, there or while it is read, breaks off or is corrupt.
    """
    if path.exists() and not path.is_dir() and not stat.S_ISREG(path.stat().st_mode):
        raise RefusedFileError(path, "is no regular file", remedy="a pipe would be waited for without an end")
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise RefusedFileError(path, "is a link to nothing") from error
    except OSError as error:
        raise cannot_be_read(path, error) from error
    with file:
        yield decompressed(file, path.name, path)


def decompressed(stream: IO[bytes], name: str, place: Path | str) -> io.BufferedReader:
    """A stream without the compressions that its name or first bytes tell. place: for messages."""
    checked = _checked(stream, place)
    suffix = os.path.splitext(name.lower())[1]
    for _ in range(MAX_LAYERS):
        beginning = checked.peek(PEEKED_BYTES)
        found = next((form for form, magic in _MAGIC.items() if magic.match(beginning)), None)
        if suffix in COMPRESSIONS and beginning:
            found = found or suffix  # its decompressor says what is wrong
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
    """Bytes of another stream, whose errors become ours, with the name of the file."""

    def __init__(self, stream: IO[bytes], place: Path | str) -> None:
        self.stream, self.place = stream, place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self.stream.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk; decompressors give no number
                raise cannot_be_read(self.place, error) from error
            raise RefusedFileError(
                self.place, "breaks off or is corrupt", str(error), remedy="download it again"
            ) from error
        buffer[: len(content)] = content
        return len(content)


class _ZstdFile(io.RawIOBase):
    """All frames of a stream. Raises OSError if one breaks off, which zstandard's own reader takes for the end."""

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
"""Of compressed bytes, which a bomb can blow up 15,000 times."""


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
