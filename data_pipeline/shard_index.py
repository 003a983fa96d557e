"""The index beside a folder of shards: where each sample lies, and what its bytes sum up to.

A folder holds `*.tar`, `index.json` (kind, counts, shards with size and SHA-256) and `samples.npy` (one record a
sample, memory-mapped when read). The shards are plain WebDataset and are never rewritten.
"""

import hashlib
import json
import tarfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_pipeline.samples import IMAGE_EXTENSIONS, Kind

INDEX_VERSION = 1
INDEX_NAME = "index.json"
RECORDS_NAME = "samples.npy"
_CHUNK_BYTES = 1 << 22

MEMBER_DTYPE = [("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")]
"""A member of a tar: where its bytes start, how many they are, their checksum. Size 0: there is none."""


@dataclass(frozen=True)
class Shard:
    """One tar file of a folder."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """All samples of a folder of shards, in order."""

    folder: Path
    kind: Kind
    shards: tuple[Shard, ...]
    records: NDArray[np.void]
    """Fields: key (bytes), shard (number), image and text (MEMBER_DTYPE)."""

    @property
    def num_samples(self) -> int:
        return len(self.records)

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of any shard."""
        return hashlib.sha256(" ".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:16]


def write_index(folder: Path, kind: Kind) -> ShardIndex:
    """Index the tar files of a folder in place. Samples that lack what `kind` needs are left out.

    Raises ValueError where there is no shard or one is no complete tar or has no usable sample.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise ValueError(f"{folder} holds no .tar shard; write some with python -m data_pipeline.write_shards")
    shards, rows = [], []
    for number, path in enumerate(paths):
        shard_rows = [row for row in _scan(path, number) if _is_complete(row, kind)]
        if not shard_rows:
            raise ValueError(
                f"shard {path} holds no sample with what kind {kind!r} needs; delete it or correct the kind"
            )
        rows += shard_rows
        shards.append(Shard(path.name, len(shard_rows), path.stat().st_size, _sha256(path)))
    longest_key = max(len(row[0]) for row in rows)
    dtype = [("key", f"S{longest_key}"), ("shard", "<u4"), ("image", MEMBER_DTYPE), ("text", MEMBER_DTYPE)]
    np.save(folder / RECORDS_NAME, np.array(rows, dtype=dtype))
    header = {"version": INDEX_VERSION, "kind": kind, "num_samples": len(rows), "shards": [asdict(s) for s in shards]}
    (folder / INDEX_NAME).write_text(json.dumps(header, indent=1) + "\n")
    return read_index(folder)


def read_index(folder: Path) -> ShardIndex:
    """Open a folder of shards. Raises ValueError, naming what is wrong, before any sample is read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"shard folder {folder} does not exist; write it with python -m data_pipeline.write_shards")
    try:
        header = json.loads((folder / INDEX_NAME).read_text())
        records = np.load(folder / RECORDS_NAME, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} has no {Path(error.filename).name}; make one with python -m data_pipeline.index_shards"
        ) from error
    if header["version"] != INDEX_VERSION or header["num_samples"] != len(records):
        raise ValueError(f"the index of {folder} is damaged or of another version; index the folder again")
    shards = tuple(Shard(**shard) for shard in header["shards"])
    for shard in shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.num_bytes:
            raise ValueError(f"shard {path} is missing or has changed since it was indexed; restore it or index again")
    return ShardIndex(folder, header["kind"], shards, records)


def _scan(path: Path, shard_number: int) -> list[tuple[bytes, int, tuple[int, int, int], tuple[int, int, int]]]:
    """One row a sample: members that share folder and name up to its first dot, as WebDataset groups them."""
    members: dict[str, dict[str, tuple[int, int, int]]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as raw:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                folder, slash, base = member.name.removeprefix("./").rpartition("/")
                stem, _, extension = base.partition(".")
                key = folder + slash + stem
                extension = extension.lower()
                field = "image" if extension in IMAGE_EXTENSIONS else "text" if extension == "txt" else None
                if not member.isfile() or field is None:
                    continue
                raw.seek(member.offset_data)
                crc = zlib.crc32(raw.read(member.size))
                if field in members.setdefault(key, {}):
                    raise tarfile.ReadError(f"key {key} has a second {field} at byte {member.offset}")
                members[key][field] = (member.offset_data, member.size, crc)
            raw.seek(end)
            if raw.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a corrupt header for the end
                raise tarfile.ReadError(f"it breaks off or is corrupt at byte {end}")
    except tarfile.TarError as error:
        raise ValueError(f"shard {path} is no readable tar ({error}); write or download it again") from error
    nothing = (0, 0, 0)
    return [
        (key.encode(), shard_number, found.get("image", nothing), found.get("text", nothing))
        for key, found in members.items()
    ]


def _is_complete(row: tuple[bytes, int, tuple[int, int, int], tuple[int, int, int]], kind: Kind) -> bool:
    _, _, image, text = row
    return (kind == "text" or image[1] > 0) and (kind == "image" or text[1] > 0)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
