"""Records, which every source yields: an image's location, not its bytes, so that one process lists what many read."""

import errno
import re
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.samples.sample import IMAGE_EXTENSIONS, BadSampleError

MAX_IMAGE_BYTES = 256_000_000
"""Larger files are not read: they are not images, or would fill the memory of many processes."""


@dataclass(frozen=True)
class TarMember:
    """A file inside an uncompressed tar."""

    tar: Path
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class ParquetCell:
    """A binary cell of a Parquet file."""

    parquet: Path
    row_group: int
    row: int
    """Number of the row in its row group."""
    column: str
    """Path in the schema: 'image', or 'image.bytes' in a struct."""


ImageLocation = Path | TarMember | ParquetCell | bytes
"""A file, a member of a tar, a cell of a table, or the encoded bytes themselves."""


@dataclass(frozen=True)
class Record:
    """A sample before it is read: images, a text, or both."""

    name: str
    """Name that is the same on every machine: a relative path, an id, or a number in the source. Gives the key."""
    image: ImageLocation | None = None
    text: str | None = None
    """Bytes that are not UTF-8, and unpaired surrogates in JSON, are lone surrogates."""
    caption_number: int | None = None
    """Number of the caption among several of one image."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Content of the .json member; for a sample of a task its annotation, see samples/tasks.py."""
    problem: str | None = None
    """Why this cannot be a sample, if the source shows it. It is skipped and counted by the words before ' ('."""
    place: str = ""
    """Place in the source for messages: 'pairs.csv:12', 'captions.json: annotations[3]'."""
    image2: ImageLocation | None = None
    """The second image of kind nlvr2."""

    @property
    def key(self) -> str:
        """WebDataset key: the name without an image's extension, and with _ for dots, slashes and other characters."""
        stem, dot, extension = self.name.rpartition(".")
        name = stem if dot and extension.lower() in IMAGE_EXTENSIONS else self.name
        number = "" if self.caption_number is None else f"_{self.caption_number}"
        return (re.sub(r"[^\w-]", "_", name) or "_") + number


def read_image(location: ImageLocation) -> bytes:
    """Return the encoded bytes. Raises BadSampleError if there is no image, OSError with the path if a disk fails."""
    if isinstance(location, bytes):
        return location
    if isinstance(location, ParquetCell):
        return _read_cell(location)
    path = location if isinstance(location, Path) else location.tar
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadSampleError("image is not a regular file")
        if (status.st_size if isinstance(location, Path) else location.num_bytes) > MAX_IMAGE_BYTES:
            raise BadSampleError(f"image is larger than {MAX_IMAGE_BYTES // 10**6} MB")
        if isinstance(location, Path):
            return location.read_bytes()
        with location.tar.open("rb") as tar:
            tar.seek(location.offset)
            return tar.read(location.num_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadSampleError(f"image file does not exist ({path})") from error
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise BadSampleError("image path is not valid") from error
        raise named(error, path) from error


def named(error: OSError, path: object) -> OSError:
    """Return a disk's error with the path of the file, which read() does not add."""
    return OSError(error.errno, error.strerror, str(path))


def cannot_be_read(path: object, error: OSError) -> OSError:
    """Return the error with the same errno and a sentence that names the path and the remedy."""
    if error.strerror is None:  # already a sentence
        return error
    sentence = type(error)(f"{path} cannot be read ({error.strerror}); repair or remove it and rerun the same command")
    sentence.errno = error.errno
    return sentence


def _read_cell(cell: ParquetCell) -> bytes:
    from pyarrow import ArrowException  # optional

    try:
        value = _row_group(cell.parquet, cell.row_group, cell.column)[cell.row].as_py()
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; Arrow's own errors have no errno
            raise named(error, cell.parquet) from error
        raise BadSampleError(f"row group of a Parquet file is damaged ({error})") from error
    return value["bytes"] if isinstance(value, dict) else value


@lru_cache(maxsize=1)
def _row_group(parquet: Path, row_group: int, column: str) -> Any:
    """Return one column of one row group, cached: the next image is mostly in it too."""
    from pyarrow.parquet import ParquetFile  # optional, and only needed for such files

    with ParquetFile(parquet) as file:
        return file.read_row_group(row_group, columns=[column], use_threads=False)[0]  # workers are forked
