"""What one shard holds: where each sample lies in the tar, and what was left out and why.

A scan is kept beside the shards, in .index/NNNNNN.npz, so that a folder is indexed by many processes in any order, goes
on after a kill, and is only read where it is new.
"""

import hashlib
import json
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.samples import IMAGE_EXTENSIONS, Kind

SCANS_NAME = ".index"
MAX_KEY_BYTES = 200
"""A longer key is cut and made unique by a hash: all keys of an index have the width of the longest."""
MAX_MEMBER_BYTES = (1 << 32) - 1
_CHUNK_BYTES = 1 << 22

MEMBER_DTYPE = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")]
"""A member of a tar: where its bytes start, how many they are, their checksum. Size 0: there is none."""

Member = tuple[int, int, int]
NOTHING: Member = (0, 0, 0)


def record_dtype(key_bytes: int) -> list[tuple[str, object]]:
    """One sample of an index: key, number of its shard, its members."""
    return [("key", f"S{key_bytes}"), ("shard", "<u4"), ("image", MEMBER_DTYPE), ("text", MEMBER_DTYPE)]


@dataclass
class SampleReport:
    """How many samples were kept, and what became of the others."""

    num_kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Samples left out, by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first sample left out for each reason."""

    def skip(self, name: str, reason: str) -> None:
        self.skipped[reason] += 1
        self.examples.setdefault(reason, name)

    def add(self, other: "SampleReport") -> None:
        self.num_kept += other.num_kept
        self.skipped.update(other.skipped)
        self.examples = {**other.examples, **self.examples}

    def lines(self) -> list[str]:
        """A line a reason."""
        return [
            f"  skipped {count}: {reason}; the first: {self.examples[reason]}"
            for reason, count in sorted(self.skipped.items())
        ]


@dataclass(frozen=True)
class ShardScan:
    """A shard's part of an index."""

    kind: Kind
    origin: str
    """What was scanned, and in which state: a scan holds for that alone. See `origin`."""
    block: str
    """Digest of the records that write_shards made the shard from; empty for a shard of others."""
    num_bytes: int
    """Of the tar; 0 where a block of a source gave no sample and hence no tar."""
    sha256: str
    records: NDArray[np.void]
    content_hashes: NDArray[np.uint64]
    """Of each sample's image and text: equal for exact copies."""
    report: SampleReport


def file_origin(path: Path, place: str = "") -> str:
    """Of a local shard: size and time of change; place: its folder, where the index lies elsewhere."""
    status = path.stat()
    return f"{place} {status.st_size} {status.st_mtime_ns}"


def scan_shard(path: Path, kind: Kind, origin: str, block: str = "") -> ShardScan:
    """Read a tar through. Samples that lack what `kind` needs are left out, counted in the report.

    Raises ValueError where it is no complete tar.
    """
    report = SampleReport()
    members: dict[str, dict[str, Member]] = {}
    digests: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
            end = 0
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                key, part = _key_and_part(member.name)
                if not member.isfile() or part is None:
                    continue
                name = f"{path.name}:{key}"
                if key.startswith("/") or ".." in key.split("/"):
                    report.skip(name, "name leads out of the archive")
                    continue
                if part in members.setdefault(key, {}):
                    report.skip(name, f"key has a second {part}, the first is kept")
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    report.skip(name, "member of more than 4 GiB")
                    continue
                crc, digest = _checksums(raw, member.offset_data, member.size)
                members[key][part] = (member.offset_data, member.size, crc)
                digests.setdefault(key, {})[part] = digest
            raw.seek(end)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a corrupt header for the end
                raise tarfile.ReadError(f"it breaks off or is corrupt at byte {end}")
            raw.seek(0)
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
    except (tarfile.TarError, UnicodeError, OverflowError) as error:
        raise ValueError(f"shard {path} is no readable tar ({error}); write or download it again") from error

    rows, hashes = [], []
    needed = {"image": ["image"], "text": ["text"], "pair": ["image", "text"]}[kind]
    for key, found in members.items():
        missing = [part for part in needed if found.get(part, NOTHING)[1] == 0]
        if missing:
            report.skip(f"{path.name}:{key}", f"{missing[0]} is missing or empty")
            continue
        rows.append((_short(key), 0, found.get("image", NOTHING), found.get("text", NOTHING)))
        hashes.append(int.from_bytes(hashlib.sha256(b"".join(digests[key][part] for part in needed)).digest()[:8]))
    if not rows:
        report.skip(path.name, "shard without a sample")
    report.num_kept = len(rows)
    records = np.array(rows, dtype=record_dtype(max((len(row[0]) for row in rows), default=1)))
    num_bytes = path.stat().st_size
    return ShardScan(kind, origin, block, num_bytes, sha256, records, np.array(hashes, dtype=np.uint64), report)


def scan_path(folder: Path, shard: str) -> Path:
    """Where the scan of a shard is kept: shard 'a/000001.tar' of a folder -> folder/.index/a/000001.npz."""
    return (folder / SCANS_NAME / shard).with_suffix(".npz")


def own_partial(path: Path) -> Path:
    """Where this process writes what it then renames: two that write the same file do not meet."""
    return path.with_name(f"{path.name}.{os.uname().nodename}-{os.getpid()}.partial")


def save_scan(scan: ShardScan, path: Path) -> None:
    """Complete or absent."""
    header = {
        "kind": scan.kind,
        "origin": scan.origin,
        "block": scan.block,
        "num_bytes": scan.num_bytes,
        "sha256": scan.sha256,
        "report": [scan.report.num_kept, scan.report.skipped, scan.report.examples],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = own_partial(path)
    with partial.open("wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), records=scan.records, hashes=scan.content_hashes)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def load_scan(path: Path) -> ShardScan:
    """Raises FileNotFoundError where there is none, or what a crash of the machine has left of one."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            num_kept, skipped, examples = header.pop("report")
            report = SampleReport(num_kept, Counter(skipped), examples)
            return ShardScan(**header, records=arrays["records"], content_hashes=arrays["hashes"], report=report)
    except (zipfile.BadZipFile, EOFError, ValueError, KeyError, TypeError) as error:
        raise FileNotFoundError(f"{path} is damaged") from error


def _key_and_part(name: str) -> tuple[str, str | None]:
    """Key and what a member is of its sample. A key is folder and name up to its first dot, as WebDataset has it."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    part = "image" if extension in IMAGE_EXTENSIONS else "text" if extension == "txt" else None
    return folder + slash + stem, part


def _checksums(raw: IO[bytes], offset: int, size: int) -> tuple[int, bytes]:
    """CRC-32 and SHA-256 of a member."""
    raw.seek(offset)
    crc, digest = 0, hashlib.sha256()
    while size > 0 and (chunk := raw.read(min(size, _CHUNK_BYTES))):
        crc = zlib.crc32(chunk, crc)
        digest.update(chunk)
        size -= len(chunk)
    return crc, digest.digest()


def _short(key: str) -> bytes:
    encoded = key.encode(errors="surrogateescape")
    if len(encoded) <= MAX_KEY_BYTES:
        return encoded
    digest = hashlib.sha256(encoded).hexdigest()[:16].encode()
    return encoded[: MAX_KEY_BYTES - 17].decode(errors="ignore").encode() + b"-" + digest
