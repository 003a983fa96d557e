"""Writing the index of a folder of shards from their scans."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipeline.files.hashing import file_sha256
from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import written_with_retries
from data_pipeline.samples.sample import Kind, key_text
from data_pipeline.shards.index import (
    CAPTION_KEY_VERSION,
    HEADER,
    INDEX_NAME,
    INDEX_VERSION,
    IndexHeader,
    Shard,
    records_name,
)
from data_pipeline.shards.members import record_dtype
from data_pipeline.shards.scan import SampleReport, ShardScan, load_scan

T = TypeVar("T")


def merge_scans(
    folder: Path,
    kind: Kind,
    shards: list[str],
    scans: list[Path],
    shard_folder: str = "",
    deduplicate: bool = False,
    text_length: int = 0,
    caption_key: str = "",
) -> SampleReport:
    """Write the index of shards from their scans, in the given order. Returns what was kept and skipped.

    shard_folder: path or URL of the shards, if not `folder`. deduplicate: keep only the first of exact copies.
    Raises ValueError if no sample is left, OSError, naming the file, if the index cannot be written.
    """
    report = SampleReport()
    loaded = [load_scan(path) for path in scans]
    for path, scan in zip(scans, loaded, strict=True):
        if (scan.kind, scan.caption_key) != (kind, caption_key):
            raise ValueError(f"{path} is the scan of another kind of index; remove it and run the command again")
        report.add(scan.report)
    kept = _kept_samples(shards, loaded, deduplicate, report)
    if not report.num_kept:
        raise ValueError(
            f"{shard_folder or folder} holds no sample with the parts of kind {kind!r}\n" + "\n".join(report.lines())
        )
    entries = [
        Shard(name, int(keep.sum()), scan.num_bytes, scan.sha256)
        for name, scan, keep in zip(shards, loaded, kept, strict=True)
        if keep.any()
    ]
    records, records_bytes, sha256 = _write_records(folder, kind, loaded, kept)
    header = IndexHeader(
        version=CAPTION_KEY_VERSION if caption_key else INDEX_VERSION,
        kind=kind,
        num_samples=report.num_kept,
        shard_folder=shard_folder,
        records=records,
        records_bytes=records_bytes,
        records_sha256=sha256,
        text_length=text_length,
        skipped=dict(report.skipped),
        shards=tuple(entries),
        caption_key=caption_key,
    )
    content = HEADER.dump_json(header, indent=1) + b"\n"
    partial = own_partial(folder / INDEX_NAME)

    def write() -> None:
        partial.write_bytes(content)
        partial.rename(folder / INDEX_NAME)

    _complete_or_absent(partial, folder / INDEX_NAME, write)
    for old in folder.glob("samples-*.npy"):  # only now: until the rename above, readers needed them
        if old.name != header.records:
            old.unlink()
    return report


def _kept_samples(
    shards: list[str], scans: list[ShardScan], deduplicate: bool, report: SampleReport
) -> list[NDArray[np.bool_]]:
    """Return a mask of the kept samples per shard, and count exact copies in the report, kept or skipped."""
    first = _first_of_each([scan.content_hashes for scan in scans])
    if not deduplicate:
        report.num_copies = sum(int((~mask).sum()) for mask in first)
        return [np.ones(len(scan.records), dtype=bool) for scan in scans]
    for name, scan, mask in zip(shards, scans, first, strict=True):
        for record, num_members in zip(scan.records[~mask], scan.num_members[~mask], strict=True):
            report.skip(f"{name}:{key_text(record['key'])}", "exact copy of another sample", int(num_members))
    report.num_kept = sum(int(mask.sum()) for mask in first)
    return first


def _write_records(
    folder: Path, kind: Kind, scans: list[ShardScan], kept: list[NDArray[np.bool_]]
) -> tuple[str, int, str]:
    """Write the kept records of all shards as one array. Returns name, size and SHA-256 of the file.

    Not through a memory map: on a full disk, SIGBUS would kill the process. The name holds the checksum, so that an
    index.json and its records always belong together, whichever of the two files a reader or a crash catches first.
    """
    dtype = np.dtype(record_dtype(max(scan.records.dtype["key"].itemsize for scan in scans), kind))
    shape = (sum(int(keep.sum()) for keep in kept),)
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    partial = own_partial(folder / "samples.npy")

    def write() -> tuple[str, int, str]:
        number = 0
        with partial.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, description)  # type: ignore[no-untyped-call]
            for scan, keep in zip(scans, kept, strict=True):
                if keep.any():
                    part = scan.records[keep].astype(dtype)
                    part["shard"] = number
                    file.write(part.tobytes())
                    number += 1
            num_bytes = file.tell()
        sha256 = file_sha256(partial)
        name = records_name(sha256)
        partial.rename(folder / name)
        return name, num_bytes, sha256

    return _complete_or_absent(partial, folder / "samples-*.npy", write)


def _complete_or_absent(partial: Path, path: Path, write: Callable[[], T]) -> T:
    """Return the result of `write`, which writes and renames `partial`. Raises OSError, naming `path`, if it fails."""
    try:
        return written_with_retries(write, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()  # left if it could not be written: a full disk needs the space


def _first_of_each(hashes: list[NDArray[np.uint64]]) -> list[NDArray[np.bool_]]:
    """Return a mask per list of hashes, True for the first occurrence of a hash in all of them."""
    together = np.concatenate(hashes)
    first = np.zeros(len(together), dtype=bool)
    first[np.unique(together, return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(part) for part in hashes])[:-1])
