"""Remote shards, fetched whole into a bounded folder on the node's disk that all its ranks and loader workers share.

<sha256>.shard    complete and verified; its mtime is its last use, the least recently used is evicted first
<sha256>.partial  a download, as long as the shard from the start; locked by its process, who alone may rename or
                  remove it; without a lock it is what a dead process left
lock              held for the moment in which room is made; its holder waits for no other lock, so none deadlock
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.remote_files import open_filesystem, with_retries

STALL_SECONDS = 60.0
"""An HTTP connection that is silent for so long has failed; other protocols have limits of their own."""
_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 23


class ShardCache:
    """Local copies of remote shards, complete and partial ones together never more than max_bytes.

    A copy that is evicted while somebody has it open stays readable, and on the disk, until that descriptor is closed.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder = folder
        self.max_bytes = max_bytes

    def fetch(self, url: str, num_bytes: int, sha256: str) -> None:
        """Have the shard here. A thread that looks ahead starts after any fork: a child inherits locks it may hold."""
        os.close(self.open(url, num_bytes, sha256))

    def open(self, url: str, num_bytes: int, sha256: str) -> int:
        """A read-only descriptor of the local copy, fetched first where there is none, by one process for all.

        Raises ValueError for a shard that cannot be cached, OSError where fetching fails or the disk is full.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(f"shard {url} of {num_bytes} bytes exceeds data.cache_bytes {self.max_bytes}; raise it")
        if num_bytes < 1 or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(f"the index gives {url} {num_bytes} bytes with SHA-256 {sha256!r}; index its folder again")
        self.folder.mkdir(parents=True, exist_ok=True)
        complete, partial = self.folder / f"{sha256}.shard", self.folder / f"{sha256}.partial"
        while True:
            with contextlib.suppress(FileNotFoundError):
                return _used_now(os.open(complete, os.O_RDONLY))
            with _locked(partial) as writer:
                if complete.exists():  # by the process that this one waited for; open it, unless it is evicted first
                    partial.unlink(missing_ok=True)
                    continue
                try:
                    while not self._reserve(writer, num_bytes):
                        time.sleep(_POLL_SECONDS)
                    with_retries(url, lambda: _download(url, num_bytes, sha256, writer))
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                descriptor = _used_now(os.open(partial, os.O_RDONLY))
                partial.rename(complete)  # from here on it may be evicted
                return descriptor

    def _reserve(self, writer: int, num_bytes: int) -> bool:
        """Whether the partial file has its space now. False: other downloads fill the bound; one of them will end."""
        with _locked(self.folder / "lock"):
            os.ftruncate(writer, 0)  # what a dead download left
            # Partial files first: one that is completed in between is counted twice rather than not at all.
            downloading = sum(size for _, size, path in self._files("partial") if not _removed_as_dead(path))
            shards = self._files("shard")
            used = downloading + sum(size for _, size, _ in shards)
            while downloading + num_bytes <= self.max_bytes:
                if used + num_bytes <= self.max_bytes and _allocate(writer, num_bytes):
                    return True
                if not shards:
                    break
                _, size, oldest = shards.pop(0)
                oldest.unlink(missing_ok=True)
                used -= size
            if downloading == 0:
                problem = f"the disk lacks {num_bytes} bytes though no shard is cached any more; free some of it"
                raise OSError(errno.ENOSPC, problem, str(self.folder))
            return False

    def _files(self, suffix: str) -> list[tuple[int, int, Path]]:
        """Last use, size and path of our files, least recently used first; of nothing else that lies in the folder."""
        files = []
        for path in self.folder.glob("[0-9a-f]" * 64 + f".{suffix}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        return sorted(files)


@contextlib.contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[int]:
    """A descriptor of the file, made if need be, under its exclusive lock, which the kernel ends with the process."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
            if _is_at(path, descriptor):  # else the holder that this one waited for renamed or removed it
                yield descriptor
                return
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a forked child has the descriptor too
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _removed_as_dead(partial: Path) -> bool:
    with contextlib.suppress(BlockingIOError), _locked(partial, fcntl.LOCK_NB):
        partial.unlink()
        return True
    return False


def _allocate(writer: int, num_bytes: int) -> bool:
    """Whether the disk has the space. All is taken now, so that it cannot run out in the middle of the download."""
    try:
        os.posix_fallocate(writer, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(writer, 0)
        return False
    return True


def _used_now(descriptor: int) -> int:
    now = time.time_ns()  # the kernel's own time stamps are milliseconds apart
    os.utime(descriptor, ns=(now, now))
    return descriptor


def _download(url: str, num_bytes: int, sha256: str, writer: int) -> None:
    """Stream the shard into the reserved file. Raises OSError where it is not the one of the index."""
    filesystem, path = open_filesystem(url)
    options: dict[str, Any] = {"cache_type": "none"}  # one request a chunk, nothing read ahead
    if "http" in filesystem.protocol:  # one request in all: not every server knows ranges
        from aiohttp import ClientTimeout

        silence = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)  # not 5 min in all
        options = {"block_size": 0, "size": num_bytes, "timeout": silence}
    digest, size = hashlib.sha256(), 0
    os.lseek(writer, 0, os.SEEK_SET)
    with filesystem.open(path, "rb", **options) as remote, open(writer, "wb", closefd=False) as local:
        while size <= num_bytes and (chunk := remote.read(_CHUNK_BYTES)):
            size += len(chunk)
            digest.update(chunk)
            local.write(chunk if size <= num_bytes else b"")  # never more than was reserved
    if (size, digest.hexdigest()) != (num_bytes, sha256):
        raise OSError(
            f"it differs from its index, which says {num_bytes} bytes with SHA-256 {sha256}, not "
            f"{size if size <= num_bytes else 'more'} with {digest.hexdigest()}; restore it or index its folder again"
        )
