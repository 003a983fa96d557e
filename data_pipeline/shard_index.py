"""The index beside a folder of shards: where each sample lies, and what its bytes sum up to.

A folder holds `*.tar`, `index.json` (kind, counts, shards with size and SHA-256) and `samples-*.npy` (one record a
sample, memory-mapped when read, so that 21 million samples open as quickly as 21). The shards are plain WebDataset, are
never rewritten, and may lie elsewhere, also remotely: `index.json` then says where.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_pipeline.remote_files import is_remote, public_url, read_remote_file
from data_pipeline.samples import Kind
from data_pipeline.shard_cache import ShardCache
from data_pipeline.shard_scan import SampleReport, load_scan, own_partial, record_dtype

INDEX_VERSION = 2
INDEX_NAME = "index.json"
MAX_COUNT = 1 << 50
"""Of bytes and samples: what is larger is no count but an attack on sums of 64 bits."""


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
    """What `index.json` holds."""

    version: int
    kind: Kind
    num_samples: pydantic.PositiveInt
    shard_folder: str
    """Path or URL of the shards; empty where they lie beside the index."""
    records: str
    """File of the records, named by its content."""
    records_bytes: pydantic.PositiveInt
    records_sha256: str
    text_length: int
    """Ids that a passage may have, <s> and </s> included; 0: not known, or no passages."""
    skipped: dict[str, int]
    """Samples that were left out, by reason."""
    shards: tuple[Shard, ...]


_HEADER = pydantic.TypeAdapter(IndexHeader)


@dataclass(frozen=True)
class ShardIndex:
    """All samples of a folder of shards, in order."""

    folder: str
    """Path or URL of the shards."""
    kind: Kind
    shards: tuple[Shard, ...]
    records: NDArray[np.void]
    """Fields as in shard_scan.record_dtype, grouped by shard."""
    text_length: int
    """Ids that a passage may have; 0: not known."""
    records_sha256: str
    """What the records should sum up to."""
    fingerprint: str
    """Changes with any byte of any shard and with the choice of samples."""

    def __str__(self) -> str:
        return f"{self.num_samples} samples in {len(self.shards)} shards, fingerprint {self.fingerprint}"

    @property
    def num_samples(self) -> int:
        return len(self.records)

    @cached_property
    def shard_starts(self) -> NDArray[np.int64]:
        """(shards + 1,): the samples of shard i are shard_starts[i] .. shard_starts[i + 1] - 1."""
        return np.cumsum([0, *(shard.num_samples for shard in self.shards)])


def merge_scans(
    folder: Path,
    kind: Kind,
    shards: list[str],
    scans: list[Path],
    shard_folder: str = "",
    deduplicate: bool = False,
    text_length: int = 0,
) -> SampleReport:
    """Write the index of shards from their scans, in the order given. Returns what was kept and left out.

    shard_folder: where the shards lie, if not in `folder`. deduplicate: of exact copies only the first is kept.
    Raises ValueError where no sample is left.
    """
    report = SampleReport()
    loaded = [load_scan(path) for path in scans]
    for scan in loaded:
        assert scan.kind == kind
        report.add(scan.report)
    kept = [np.ones(len(scan.records), dtype=bool) for scan in loaded]
    if deduplicate:
        kept = _first_of_each([scan.content_hashes for scan in loaded])
        for name, scan, keep in zip(shards, loaded, kept, strict=True):
            for record in scan.records[~keep]:
                report.skip(f"{name}:{record['key'].decode()}", "exact copy of another sample")
        report.num_kept = sum(int(keep.sum()) for keep in kept)
    if not report.num_kept:
        raise ValueError(
            f"{shard_folder or folder} holds no sample with what kind {kind!r} needs\n" + "\n".join(report.lines())
        )
    entries: list[Shard] = []
    key_bytes = max(scan.records.dtype["key"].itemsize for scan in loaded)
    partial = own_partial(folder / "samples.npy")
    records = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
        partial, "w+", np.dtype(record_dtype(key_bytes)), (report.num_kept,)
    )
    start = 0
    for name, scan, keep in zip(shards, loaded, kept, strict=True):
        part = scan.records[keep]
        if len(part):
            for column in ("key", "image", "text"):
                records[column][start : start + len(part)] = part[column]
            records["shard"][start : start + len(part)] = len(entries)
            entries.append(Shard(name, len(part), scan.num_bytes, scan.sha256))
            start += len(part)
    records.flush()
    del records
    sha256 = file_sha256(partial)
    header = IndexHeader(
        version=INDEX_VERSION,
        kind=kind,
        num_samples=report.num_kept,
        shard_folder=shard_folder,
        records=f"samples-{sha256[:16]}.npy",
        records_bytes=partial.stat().st_size,
        records_sha256=sha256,
        text_length=text_length,
        skipped=dict(report.skipped),
        shards=tuple(entries),
    )
    partial.rename(folder / header.records)
    partial = own_partial(folder / INDEX_NAME)
    partial.write_bytes(_HEADER.dump_json(header, indent=1) + b"\n")
    partial.rename(folder / INDEX_NAME)  # from here on the new index holds, with its own records
    for old in folder.glob("samples-*.npy"):
        if old.name != header.records:
            old.unlink()
    return report


def read_index(folder: str | Path, cache: ShardCache | None = None, check_shards: bool = True) -> ShardIndex:
    """Open a folder of shards, or a URL. Raises ValueError, naming what is wrong, before any sample is read.

    check_shards: ask for the size of every local shard. Of a large job one rank is enough: thousands of questions from
    each of hundreds of ranks overwhelm a parallel file system. Sizes are compared again when a shard is opened.
    """
    header, records = _read_remote(str(folder), cache) if is_remote(str(folder)) else _read_local(Path(folder))
    expected = record_dtype(records.dtype["key"].itemsize if "key" in (records.dtype.names or ()) else 1)
    counted = sum(shard.num_samples for shard in header.shards)
    if records.dtype != expected or records.shape != (header.num_samples,) or counted != header.num_samples:
        raise ValueError(f"the index of {public_url(str(folder))} is damaged; index the folder again")
    for shard in header.shards:
        check_name(shard.name)
    shard_folder = header.shard_folder or str(folder)
    if check_shards and not is_remote(shard_folder):
        for path, shard in ((Path(shard_folder) / shard.name, shard) for shard in header.shards):
            if not path.is_file() or path.stat().st_size != shard.num_bytes:
                raise ValueError(f"shard {path} is missing or not the one that was indexed; restore it or index again")
    content = " ".join([header.records_sha256, *(shard.sha256 for shard in header.shards)])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
    return ShardIndex(
        shard_folder, header.kind, header.shards, records, header.text_length, header.records_sha256, fingerprint
    )


def check_name(name: str) -> None:
    """Raises ValueError for the name of a shard that does not lie in its folder."""
    if name.startswith("/") or ".." in PurePosixPath(name).parts or ":" in name or "\\" in name:
        raise ValueError(f"shard {name!r} lies outside of its folder; do not trust where this comes from")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_local(folder: Path) -> tuple[IndexHeader, NDArray[np.void]]:
    if not folder.is_dir():
        raise ValueError(f"shard folder {folder} does not exist; write it with python -m data_pipeline.write_shards")
    try:
        header = _parse_header((folder / INDEX_NAME).read_bytes(), str(folder))
        return header, np.load(folder / header.records, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} has no {Path(error.filename).name}; make one with python -m data_pipeline.index_shards"
        ) from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"the index of {folder} is damaged ({error}); index the folder again") from error


def _read_remote(url: str, cache: ShardCache | None) -> tuple[IndexHeader, NDArray[np.void]]:
    """Raises ValueError for an index that is damaged, or names shards that are not its own."""
    url, shown = url.rstrip("/"), public_url(url).rstrip("/")
    if cache is None:
        raise ValueError(f"{shown} is remote; give a cache folder, where shards are kept on local disk")
    try:
        header = _parse_header(read_remote_file(f"{url}/{INDEX_NAME}"), url)
    except ValueError as error:
        raise ValueError(f"the index of {shown} is damaged ({error}); index the folder again") from None
    if header.shard_folder and not f"{header.shard_folder.rstrip('/')}/".startswith(f"{url}/"):
        raise ValueError(
            f"the index of {shown} names shards elsewhere, in {public_url(header.shard_folder)}; if you trust them, "
            f"index that location yourself: python -m data_pipeline.index_shards {header.kind} LOCATION --out FOLDER"
        )
    descriptor = cache.open(f"{url}/{header.records}", header.records_bytes, header.records_sha256)
    with os.fdopen(descriptor, "rb") as file:
        try:
            version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            if version != (1, 0):
                raise ValueError(f"version {version} of NumPy's format")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            if dtype.hasobject:
                raise ValueError("its records hold Python objects")
            records = np.memmap(file, dtype, "r", file.tell(), shape)
        except Exception as error:  # whatever NumPy meets in a header that is none
            raise ValueError(f"the index of {shown} is damaged ({error}); index the folder again") from None
    return header, records


def _parse_header(content: bytes, folder: str) -> IndexHeader:
    """Raises ValueError for what is no header of this version, and for one that names files elsewhere."""
    try:
        header = _HEADER.validate_json(content, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or INDEX_NAME
        raise ValueError(f"{INDEX_NAME}: {place}: {first['msg']}") from None
    if header.version != INDEX_VERSION:
        raise ValueError(f"{INDEX_NAME} is of version {header.version}, not {INDEX_VERSION}")
    if not re.fullmatch(r"samples-[0-9a-f]{16}\.npy", header.records):
        raise ValueError(f"{INDEX_NAME} names {header.records!r} as its records")
    checksums = (header.records_sha256, *(shard.sha256 for shard in header.shards))
    if not all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums):
        raise ValueError(f"{INDEX_NAME} holds something else than SHA-256 where it should")
    counts = [header.num_samples, header.records_bytes, header.text_length, *header.skipped.values()]
    counts += [number for shard in header.shards for number in (shard.num_samples, shard.num_bytes)]
    if not all(0 <= count <= MAX_COUNT for count in counts):
        raise ValueError(f"{INDEX_NAME} holds a count outside of 0 .. {MAX_COUNT}")
    return header


def _first_of_each(hashes: list[NDArray[np.uint64]]) -> list[NDArray[np.bool_]]:
    """True where a hash occurs for the first time."""
    together = np.concatenate(hashes)
    first = np.zeros(len(together), dtype=bool)
    first[np.unique(together, return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(part) for part in hashes])[:-1])
