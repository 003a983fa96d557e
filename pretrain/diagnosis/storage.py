"""Checks of disks: space for checkpoints and for the cache of remote shards, and how fast shards are read."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import parse_source
from data_pipeline.shards.index import INDEX_NAME
from pretrain.config.run_config import RunConfig
from pretrain.diagnosis.demands import Demands
from pretrain.diagnosis.findings import Finding
from pretrain.diagnosis.machine import gb

READ_BYTES = 256_000_000
"""Bytes that are read to measure a source of shards."""
READ_SECONDS = 2.0
"""Longest time of that measurement."""
SLOW_READING = 20e6
"""Bytes per second below which reading is likely to be slower than training."""
_CHUNK_BYTES = 4_000_000


def disk_space(run_dir: Path, demands: Demands) -> Iterator[Finding]:
    """Yield the free space for the checkpoints of a run, beside those that are there, and whether it can be written."""
    subject, folder = "disk space", nearest_folder(run_dir)
    if not os.access(folder, os.W_OK | os.X_OK):
        remedy = "give another --run-dir, or change the folder's permissions"
        yield Finding("error", subject, f"{folder} cannot be written, for run_dir {run_dir}", remedy)
        return
    status = os.statvfs(folder)
    free, there = status.f_bavail * status.f_frsize, _size(run_dir / "checkpoints")
    needed = max(0, demands.disk - there)
    text = f"{gb(free)} free at {folder}; {demands.num_checkpoints} checkpoints of {gb(demands.checkpoint)} "
    text += f"need {gb(demands.disk)}" + (f", of which {gb(there)} are there" if there else "")
    if free >= needed:
        yield Finding("ok", subject, text)
    else:
        remedy = f"free {gb(needed - free)}, give a --run-dir on another disk, or lower --keep-checkpoints"
        yield Finding("error", subject, text, remedy)


def cache_space(config: RunConfig) -> Iterator[Finding]:
    """Yield the free space for the cache of remote shards, if the recipe has any."""
    subject, data = "shard cache", config.data
    remote = [entry for entry in sources_of(config) if is_remote(parse_source(entry)[0])]
    if not remote:
        yield Finding("ok", subject, "not used: no source is remote")
        return
    folder = nearest_folder(data.cache_folder)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize + _size(data.cache_folder)
    text = f"{gb(free)} at {data.cache_folder}, with what is cached already; up to {gb(data.cache_bytes)} are used"
    if free >= data.cache_bytes:
        yield Finding("ok", subject, text)
    else:
        remedy = f"--data.cache-bytes {int(0.9 * free)}, or a --data.cache-folder on a larger disk"
        yield Finding("warning", subject, text, remedy)


def read_speed(config: RunConfig) -> Iterator[Finding]:
    """Yield how fast each local source of shards is read by one process, from the disk as far as Linux allows it."""
    for entry in sources_of(config):
        folder, _ = parse_source(entry)
        if is_remote(folder):
            yield Finding("ok", "shard read speed", f"{public_url(folder)} is remote, and read from the shard cache")
            continue
        shards = sorted(Path(folder).glob("*.tar"))
        if not shards:
            if Path(folder, INDEX_NAME).is_file():  # else the check of the data says that there are none
                yield Finding("ok", "shard read speed", f"not measured: no shard lies in {folder} itself")
            continue
        yield _speed(folder, *measured(shards))


def _speed(folder: str, num_bytes: int, seconds: float) -> Finding:
    speed = num_bytes / max(seconds, 1e-9)
    text = f"{gb(speed)}/s in {folder}, {gb(num_bytes)} read"
    if speed < SLOW_READING and seconds > READ_SECONDS / 2:
        remedy = "copy the shards to a local or a parallel file system; data_wait in log.jsonl shows whether steps wait"
        return Finding("warning", "shard read speed", f"{text}: slow", remedy)
    return Finding("ok", "shard read speed", text)


def measured(shards: list[Path]) -> tuple[int, float]:
    """Read the beginnings of shards; return bytes and seconds. Raises OSError."""
    num_bytes, started = 0, time.monotonic()
    for shard in shards:
        descriptor = os.open(shard, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # else memory would be measured, if not mapped
            while chunk := os.read(descriptor, _CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes >= READ_BYTES or time.monotonic() - started > READ_SECONDS:
                    return num_bytes, time.monotonic() - started
        finally:
            os.close(descriptor)
    return num_bytes, time.monotonic() - started


def sources_of(config: RunConfig) -> tuple[str, ...]:
    """Return the entries of all sources that a step takes samples of."""
    return tuple(entry for _, entries, count in config.kinds if count for entry in entries)


def nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _size(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
