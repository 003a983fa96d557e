"""The scan of one shard: where each sample lies in the tar, and what was skipped and why.

Scans are kept beside the shards, in .index/NNNNNN.npz, so that many processes can index a folder in any order, indexing
resumes after a kill, and only new shards are read.
"""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.files.hashing import file_sha256
from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import written_with_retries
from data_pipeline.samples.sample import KINDS, PARTS, BadSampleError, Kind, printable
from data_pipeline.shards.members import NOTHING, MemberReader, Part, indexed_parts, record_dtype, short_key
from data_pipeline.shards.tar_members import TarError, open_tar

SCANS_NAME = ".index"
SCAN_VERSION = 2
"""index_shards repeats scans of version 1, which did not count everything that was skipped."""


@dataclass
class SampleReport:
    """Number of samples kept, and what was skipped and why."""

    num_kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Number of samples, and of members that belong to none, that were skipped, by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """Name of the first that was skipped for each reason."""
    num_members: int = 0
    """Number of tar members seen; each is part of a kept sample or skipped."""
    num_skipped_members: int = 0
    num_copies: int = 0
    """Number of kept samples that are exact copies of others."""

    def skip(self, name: str, reason: str, num_members: int = 0) -> None:
        """Count a skipped sample or member. num_members: the number of tar members that it has."""
        self.skipped[reason] += 1
        self.examples.setdefault(reason, printable(name))
        self.num_skipped_members += num_members

    def add(self, other: "SampleReport") -> None:
        self.num_kept += other.num_kept
        self.skipped.update(other.skipped)
        self.examples = {**other.examples, **self.examples}
        self.num_members += other.num_members
        self.num_skipped_members += other.num_skipped_members
        self.num_copies += other.num_copies

    def lines(self) -> list[str]:
        """Return one line per reason."""
        lines = [
            f"  skipped {count}: {printable(reason)}; the first: {printable(self.examples[reason])}"
            for reason, count in sorted(self.skipped.items())
        ]
        copies = f"  kept {self.num_copies} exact copies of other samples; --deduplicate skips them"
        return [*lines, copies] if self.num_copies else lines


@dataclass(frozen=True)
class ShardScan:
    """One shard's part of an index."""

    kind: Kind
    origin: str
    """Folder, size and mtime of the shard: the scan is valid only for that state. See `file_origin`."""
    block: str
    """Digest of the records that write_shards made the shard from; empty for shards of other tools."""
    num_bytes: int
    """Size of the tar; 0 if a block of a source gave no sample and hence no tar."""
    sha256: str
    records: NDArray[np.void]
    content_hashes: NDArray[np.uint64]
    """Hash of each sample's parts: equal for exact copies."""
    report: SampleReport
    caption_key: str = ""
    """Field of the .json members that holds the texts; empty: they are .txt members."""
    num_members: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    """(samples,): the number of tar members of each sample."""
    version: int = SCAN_VERSION


def file_origin(path: Path, place: str = "") -> str:
    """Return the origin of a local shard: size and mtime. place: its folder, if the index lies elsewhere."""
    status = path.stat()
    return f"{place} {status.st_size} {status.st_mtime_ns}"


def scan_shard(
    path: Path, kind: Kind, origin: str, block: str = "", caption_key: str = "", location: str = ""
) -> ShardScan:
    """Read a whole tar. Samples without the parts that `kind` needs are skipped and counted in the report.

    caption_key: the field of the .json members that holds the texts; empty if the .txt members are the texts.
    location: of the shard, for messages, if `path` is a copy. Raises ValueError if it is not a complete tar.
    """
    report = SampleReport()
    samples = _samples_in(path, MemberReader(caption_key, kind), report, location or str(path))
    needed, indexed = PARTS[kind], indexed_parts(kind)
    keys, rows, hashes, num_members = [], [], [], []
    for key, parts in samples.items():
        missing = [role for role in needed if role not in parts or parts[role].member[1] == 0]
        if missing:
            hint = " (--caption-key names its field of the .json)" if missing == ["text"] and ".json" in parts else ""
            report.skip(f"{path.name}:{key}{hint}", f"{missing[0]} is missing or empty", len(parts))
            continue
        members = (parts[role].member if role in parts else NOTHING for role in indexed)
        keys.append(short_key(key))
        rows.append((keys[-1], 0, *members))
        hashes.append(int.from_bytes(hashlib.sha256(b"".join(parts[role].digest for role in needed)).digest()[:8]))
        num_members.append(len(parts))
    if not rows:
        report.skip(path.name, "shard without a sample")
    report.num_kept = len(rows)
    assert report.num_members == sum(num_members) + report.num_skipped_members
    return ShardScan(
        kind=kind,
        origin=origin,
        block=block,
        num_bytes=path.stat().st_size,
        sha256=file_sha256(path),
        records=np.array(rows, dtype=record_dtype(max(map(len, keys), default=1), kind)),
        content_hashes=np.array(hashes, dtype=np.uint64),
        report=report,
        caption_key=caption_key,
        num_members=np.array(num_members, dtype=np.uint8),
    )


def _samples_in(path: Path, reader: MemberReader, report: SampleReport, location: str) -> dict[str, dict[str, Part]]:
    """Return the parts of each sample by key and role. Other members are counted in the report."""
    samples: dict[str, dict[str, Part]] = {}
    try:
        with open_tar(path, location) as tar:
            for entry in tar:
                num_members = 0 if entry.kind in ("gap", "tail") else 1
                report.num_members += num_members
                try:
                    key, role, part = reader.read(entry, tar)
                    if role in samples.setdefault(key, {}):
                        raise BadSampleError(f"key has a second {role}, the first is kept")
                    samples[key][role] = part
                except BadSampleError as error:
                    report.skip(f"{path.name}:{entry.name}{error.details}", error.reason, num_members)
    except TarError as error:
        raise ValueError(f"shard {error}; write or download it again") from error
    return samples


def scan_path(folder: Path, shard: str) -> Path:
    """Return the path of a shard's scan: 'a/000001.tar' in a folder -> folder/.index/a/000001.npz."""
    return (folder / SCANS_NAME / shard).with_suffix(".npz")


def save_scan(scan: ShardScan, path: Path) -> None:
    """Write a scan, completely or not at all. Raises OSError, naming the file, if it cannot be written."""
    report = scan.report
    header = {
        "version": scan.version,
        "kind": scan.kind,
        "origin": scan.origin,
        "block": scan.block,
        "num_bytes": scan.num_bytes,
        "sha256": scan.sha256,
        "caption_key": scan.caption_key,
        "report": [
            report.num_kept,
            report.skipped,
            report.examples,
            report.num_members,
            report.num_skipped_members,
        ],
    }
    partial = own_partial(path)

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(
                file,
                header=np.array(json.dumps(header)),
                records=scan.records,
                hashes=scan.content_hashes,
                num_members=scan.num_members,
            )
            # fsync before the rename: after a crash of the machine the name must not refer to an empty file. The scan
            # is what marks a shard as complete, so it comes after the shard itself was synced and renamed.
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)

    try:
        written_with_retries(write, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()  # left if it could not be written: a full disk needs the space


def load_scan(path: Path) -> ShardScan:
    """Return a scan. Raises FileNotFoundError if there is none or it is damaged: the shard is then scanned again."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    content = io.BytesIO(path.read_bytes())  # in memory: whatever fails below is damage, not the disk
    try:
        with zipfile.ZipFile(content) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed")  # a small file could expand to fill the memory
        with np.load(content, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            records, hashes = arrays["records"], arrays["hashes"]
            num_members = arrays["num_members"] if "num_members" in arrays else np.zeros(len(records), np.uint8)
        return _checked_scan(header, records, hashes, num_members)
    except Exception as error:  # a damaged zip, npy or JSON can raise anything
        raise FileNotFoundError(f"{path} is damaged") from error


def _checked_scan(
    header: dict[str, Any], records: NDArray[np.void], hashes: NDArray[np.uint64], num_members: NDArray[np.uint8]
) -> ShardScan:
    """Return the scan. Raises ValueError, TypeError or KeyError if save_scan did not write these values."""
    num_kept, skipped, examples, *counts = header.pop("report")
    report = SampleReport(num_kept, Counter(skipped), examples, *counts)
    version = header.pop("version", 1)
    scan = ShardScan(
        **header, records=records, content_hashes=hashes, report=report, num_members=num_members, version=version
    )
    texts = (scan.origin, scan.block, scan.sha256, scan.caption_key, *report.skipped, *examples, *examples.values())
    numbers = (version, scan.num_bytes, num_kept, *counts, *report.skipped.values())
    lengths = {records.shape, hashes.shape, num_members.shape}
    if (
        scan.kind not in KINDS
        or not all(isinstance(text, str) for text in texts)
        or not all(isinstance(number, int) and number >= 0 for number in numbers)
        or set(examples) != set(report.skipped)
        or lengths != {(num_kept,)}
        or records.dtype != np.dtype(record_dtype(records.dtype["key"].itemsize, scan.kind))
        or hashes.dtype != np.dtype(np.uint64)
    ):
        raise ValueError("not a scan")
    return scan
