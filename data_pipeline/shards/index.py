"""The index of a folder of shards: where each sample lies, and the checksum of its bytes.

A folder holds `*.tar`, `index.json` (kind, counts, shards with size and SHA-256) and `samples-*.npy` (one record per
sample, memory-mapped, so that 21 million samples open as fast as 21 and all workers share the pages). The shards are
plain WebDataset, are never rewritten, and may lie elsewhere, also at a URL, which is then in `index.json`.

WebDataset alone can only be read in sequence: the index is what makes sample n readable by itself, and with it an order
that any number of ranks can share.
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import unquote

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_pipeline.files.hashing import file_sha256
from data_pipeline.files.remote_files import is_remote, public_url, read_remote_file
from data_pipeline.samples.sample import Kind, printable
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.members import indexed_parts, record_dtype

INDEX_VERSION = 2
CAPTION_KEY_VERSION = 3
"""Version of an index whose texts lie in .json members: older code would read the JSON as the text."""
INDEX_NAME = "index.json"
MAX_INDEX_BYTES = 1 << 28
"""Maximum size of index.json, which has about 150 bytes per shard."""
MAX_COUNT = 1 << 50
"""Maximum of any count: larger numbers could overflow 64-bit sums."""
_SHARDS_COMPARED = 256
"""Number of shards whose records are compared at once."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    """Path relative to the folder of the shards."""
    num_samples: pydantic.PositiveInt
    num_bytes: pydantic.PositiveInt
    sha256: str


@dataclass(frozen=True)
class IndexHeader:
    """Content of `index.json`."""

    version: int
    kind: Kind
    num_samples: pydantic.PositiveInt
    shard_folder: str
    """Path or URL of the shards; empty if they lie beside the index."""
    records: str
    """Name of the file of records, which holds its checksum."""
    records_bytes: pydantic.PositiveInt
    records_sha256: Annotated[str, pydantic.StringConstraints(pattern="^[0-9a-f]{64}$")]
    text_length: int
    """Maximum number of ids of a passage, including <s> and </s>; 0 if unknown or not text."""
    skipped: dict[str, int]
    """Number of samples that were skipped, by reason."""
    shards: tuple[Shard, ...]
    caption_key: str = ""
    """Field of the .json members that holds the texts; empty if the texts are .txt members."""


HEADER = pydantic.TypeAdapter(IndexHeader)


@dataclass(frozen=True)
class ShardIndex:
    """All samples of a folder of shards, in order."""

    folder: str
    """Path or URL of the shards."""
    kind: Kind
    shards: tuple[Shard, ...]
    records: NDArray[np.void]
    """Fields as in members.record_dtype, grouped by shard."""
    text_length: int
    """Maximum number of ids of a passage; 0 if unknown."""
    records_sha256: str
    """Expected SHA-256 of the file of records."""
    fingerprint: str
    """Digest that changes with any byte of any shard and with the choice of samples."""
    caption_key: str = ""
    """Field of the .json text members that holds the text; empty if the member is the text."""

    def __str__(self) -> str:
        return f"{self.num_samples} samples in {len(self.shards)} shards, fingerprint {self.fingerprint}"

    @property
    def num_samples(self) -> int:
        return len(self.records)

    @cached_property
    def shard_starts(self) -> NDArray[np.int64]:
        """(shards + 1,) int64: the samples of shard i are shard_starts[i] .. shard_starts[i + 1] - 1."""
        return np.cumsum([0, *(shard.num_samples for shard in self.shards)])


def read_index(folder: str | Path, cache: ShardCache | None = None, check_shards: bool = True) -> ShardIndex:
    """Open a folder of shards, or a URL. Raises ValueError if it is damaged, before any sample is read.

    check_shards: compare the records with their checksum and shards, and stat every local shard. In a large job one
    rank is enough: thousands of requests from each of hundreds of ranks overwhelm a parallel file system. Sizes are
    compared again when a shard is opened.
    """
    header, records = _read_remote(str(folder), cache) if is_remote(str(folder)) else _read_local(Path(folder))
    expected = record_dtype(records.dtype["key"].itemsize if "key" in (records.dtype.names or ()) else 1, header.kind)
    counted = sum(shard.num_samples for shard in header.shards)
    if records.dtype != expected or records.shape != (header.num_samples,) or counted != header.num_samples:
        raise ValueError(f"the index of {public_url(str(folder))} is damaged; index the folder again")
    for shard in header.shards:
        check_name(shard.name)
    shard_folder = header.shard_folder or str(folder)
    content = " ".join([header.records_sha256, *(shard.sha256 for shard in header.shards)])
    content += f" {header.caption_key}" if header.caption_key else ""
    index = ShardIndex(
        folder=shard_folder,
        kind=header.kind,
        shards=header.shards,
        records=records,
        text_length=header.text_length,
        records_sha256=header.records_sha256,
        fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16],
        caption_key=header.caption_key,
    )
    if check_shards and (problem := index_problem(index, str(folder))):
        raise ValueError(problem)
    if check_shards and not is_remote(shard_folder):
        for path, shard in ((Path(shard_folder) / shard.name, shard) for shard in header.shards):
            if not path.is_file() or path.stat().st_size != shard.num_bytes:
                shown = printable(str(path))
                raise ValueError(f"shard {shown} is missing or not the one that was indexed; restore it or index again")
    return index


def index_problem(index: ShardIndex, folder: str) -> str:
    """Return a sentence if the records of the index in a folder or at a URL are damaged, else ""."""
    path = None if is_remote(folder) else Path(folder) / records_name(index.records_sha256)
    problem = damaged_records(index, path)
    return f"the index of {public_url(folder)} is damaged ({problem}); index the folder again" if problem else ""


def damaged_records(index: ShardIndex, path: Path | None) -> str:
    """Return how the records of an index are damaged, or "".

    path: the file of records; None if its checksum was verified when it was fetched. Reads all of it: 1.4 GB for 21
    million samples.
    """
    if path is not None and file_sha256(path) != index.records_sha256:
        return f"{path.name} differs from its checksum"
    for first in range(0, len(index.shards), _SHARDS_COMPARED):
        shards = index.shards[first : first + _SHARDS_COMPARED]
        start, stop = index.shard_starts[[first, first + len(shards)]]
        records = index.records[start:stop]
        counts = [shard.num_samples for shard in shards]
        if not np.array_equal(records["shard"], np.repeat(np.arange(first, first + len(shards)), counts)):
            return "its records are not grouped by shard"
        num_bytes = np.repeat(np.array([shard.num_bytes for shard in shards], dtype=np.uint64), counts)
        for part in indexed_parts(index.kind):
            offset, size = records[part]["offset"], records[part]["size"]
            if np.any((offset > num_bytes) | (size > num_bytes - np.minimum(offset, num_bytes))):
                return f"the {part} of a sample lies outside of its shard"
    return ""


def check_name(name: str) -> None:
    """Raise ValueError if the name of a shard leads out of its folder."""
    if name.startswith("/") or ":" in name or not is_plain(name):
        raise ValueError(f"shard '{printable(name)}' lies outside of its folder; do not trust the origin of this index")
    if "\0" in name:
        raise ValueError(f"shard '{printable(name)}' has a NUL in its name; do not trust the origin of this index")


def is_plain(name: str) -> bool:
    """Return whether a relative name stays below its folder or URL, even if a client decodes %2e to a dot."""
    return "\\" not in name and ".." not in unquote(name).split("/")


def records_name(sha256: str) -> str:
    """Return the name of the file of records with this checksum."""
    return f"samples-{sha256[:16]}.npy"


def _read_local(folder: Path) -> tuple[IndexHeader, NDArray[np.void]]:
    if folder.is_file() and folder.suffix == ".tar":
        raise ValueError(
            f"{folder} is a single shard; index it with python -m data_pipeline.index_shards KIND {folder} "
            "--out FOLDER and give that folder"
        )
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"shard folder {folder} {problem}; write it with python -m data_pipeline.write_shards")
    try:
        with _open_regular(folder / INDEX_NAME) as file:
            content = file.read(MAX_INDEX_BYTES + 1)
        header = _parse_header(content, str(folder))
        with _open_regular(folder / header.records) as file:
            return header, _mapped_records(file, str(folder))
    except FileNotFoundError as error:
        inner = sorted(str(path.parent) for path in folder.glob(f"*/{INDEX_NAME}"))
        remedy = (
            f"name one of {', '.join(inner[:5])}" if inner else "make one with python -m data_pipeline.index_shards"
        )
        raise ValueError(f"{folder} has no {Path(error.filename).name}; {remedy}") from error


def _open_regular(path: Path) -> IO[bytes]:
    """Open a regular file. Raises ValueError for a pipe, which would be waited for, and for a device or folder."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a regular file; index the folder again")
    return path.open("rb")


def _read_remote(url: str, cache: ShardCache | None) -> tuple[IndexHeader, NDArray[np.void]]:
    """Read an index at a URL. Raises ValueError if it is damaged or names shards that are not its own."""
    url, shown = url.rstrip("/"), public_url(url).rstrip("/")
    if cache is None:
        raise ValueError(f"{shown} is remote; give a cache folder on local disk for its shards")
    header = _parse_header(read_remote_file(f"{url}/{INDEX_NAME}"), url)
    is_below = f"{header.shard_folder.rstrip('/')}/".startswith(f"{url}/")
    if header.shard_folder and not (is_below and is_plain(header.shard_folder.removeprefix(url))):
        raise ValueError(
            f"the index of {shown} names shards elsewhere, in {public_url(header.shard_folder)}; if you trust them, "
            f"index that location yourself: python -m data_pipeline.index_shards {header.kind} LOCATION --out FOLDER"
        )
    descriptor = cache.open(f"{url}/{header.records}", header.records_bytes, header.records_sha256)
    with os.fdopen(descriptor, "rb") as file:
        return header, _mapped_records(file, shown)


def _mapped_records(file: IO[bytes], folder: str) -> NDArray[np.void]:
    """Return the memory-mapped array of a .npy file. Raises ValueError if it is damaged."""
    try:
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        if version != (1, 0):
            raise ValueError(f"version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        return np.memmap(file, dtype, "r", file.tell(), shape)
    except OSError:
        raise
    except Exception as error:  # numpy evaluates the header as Python: a damaged one can raise anything
        raise ValueError(f"the index of {folder} is damaged ({error}); index the folder again") from error


def _parse_header(content: bytes, folder: str) -> IndexHeader:
    """Return the header. Raises ValueError if it is damaged, of another version, or names files elsewhere."""
    problem = ""
    try:
        header = HEADER.validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or INDEX_NAME
        problem = f"{place}: {first['msg']}"
    else:
        problem = _header_problem(header)
        if not problem:
            return header
    raise ValueError(
        f"the index of {public_url(folder)} is damaged ({INDEX_NAME}: {printable(problem)}); index the folder again"
    )


def _header_problem(header: IndexHeader) -> str:
    """Return what is wrong with a header whose types are right, or ""."""
    if header.version != (CAPTION_KEY_VERSION if header.caption_key else INDEX_VERSION):
        return f"it is of version {header.version}, not {INDEX_VERSION}"
    checksums = (header.records_sha256, *(shard.sha256 for shard in header.shards))
    if not all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums):
        return "a checksum is not a SHA-256"
    if header.records != records_name(header.records_sha256):
        return f"it names {header.records!r} as its records"
    counts = [header.num_samples, header.records_bytes, header.text_length, *header.skipped.values()]
    counts += [number for shard in header.shards for number in (shard.num_samples, shard.num_bytes)]
    if not all(0 <= count <= MAX_COUNT for count in counts):
        return f"it holds a count outside of 0 .. {MAX_COUNT}"
    return ""
