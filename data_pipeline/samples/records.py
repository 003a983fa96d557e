"""What every source yields: where an image lies, not its bytes, so that one process can list what many read."""

import errno
import re
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_pipeline.samples.sample import IMAGE_EXTENSIONS, BadSampleError

MAX_IMAGE_BYTES = 256_000_000
"""A larger file is not read: it is no image, or one that would fill the memory of many processes."""


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
    """In its row group."""
    column: str
    """Its path in the schema: 'image', or 'image.bytes' of a struct."""


ImageLocation = Path | TarMember | ParquetCell | bytes
"""A file, a member of a tar, a cell of a table, or the encoded bytes themselves."""


@dataclass(frozen=True)
class Record:
    """A sample to be: an image, a text, or both."""

    name: str
    """Stable across machines: a path relative to the source, an id, or a number in it. Gives the key."""
    image: ImageLocation | None = None
    text: str | None = None
    """What was not UTF-8 in it, or half of a pair in JSON, is a lone surrogate."""
    caption_number: int | None = None
    """Of several captions of an image that lie together: which one it is."""
    metadata: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    """Why this is no sample, where the source itself shows it: it is skipped and counted by these words, up to ' ('."""
    place: str = ""
    """Where the source holds it, as a person looks it up: 'pairs.csv:12', 'captions.json: annotations[3]'."""

    @property
    def key(self) -> str:
        """As a WebDataset key: no dot, no slash, no byte that is not UTF-8; an image's extension goes."""
        stem, dot, extension = self.name.rpartition(".")
        name = stem if dot and extension.lower() in IMAGE_EXTENSIONS else self.name
        number = "" if self.caption_number is None else f"_{self.caption_number}"
        return (re.sub(r"[^\w-]", "_", name) or "_") + number


def read_image(location: ImageLocation) -> bytes:
    """The encoded bytes. Raises BadSampleError if there is nothing to read, OSError with the path if a disk fails."""
    if isinstance(location, bytes):
        return location
    if isinstance(location, ParquetCell):
        return _read_cell(location)
    path = location if isinstance(location, Path) else location.tar
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadSampleError("image is no regular file")
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
            raise BadSampleError("image path is no path") from error
        raise named(error, path) from error


def named(error: OSError, path: object) -> OSError:
    """The error of a disk with the file that it befell, which reading alone does not tell."""
    return OSError(error.errno, error.strerror, str(path))


def cannot_be_read(path: object, error: OSError) -> OSError:
    """A sentence with the path in place of an errno, which it keeps."""
    if error.strerror is None:  # it is such a sentence
        return error
    told = type(error)(f"{path} cannot be read ({error.strerror}); repair or remove it and run the same command again")
    told.errno = error.errno
    return told


def _read_cell(cell: ParquetCell) -> bytes:
    from pyarrow import ArrowException  # optional

    try:
        value = _row_group(cell.parquet, cell.row_group, cell.column)[cell.row].as_py()
    except (ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; Arrow's own have no number
            raise named(error, cell.parquet) from error
        raise BadSampleError(f"row group of a Parquet file is damaged ({error})") from error
    return value["bytes"] if isinstance(value, dict) else value


@lru_cache(maxsize=1)
def _row_group(parquet: Path, row_group: int, column: str) -> Any:
    """One column of one row group, kept as the next image mostly lies in it too."""
    from pyarrow.parquet import ParquetFile  # optional, and only where there is such a file

    with ParquetFile(parquet) as file:
        return file.read_row_group(row_group, columns=[column], use_threads=False)[0]  # workers are forked
