"""Remote shards, downloaded whole into a bounded folder on the node's disk that all its ranks and loader workers share.

<sha256>.shard    complete and verified; its atime is its last use, and the least recently used is evicted first
<sha256>.seal     checksum, inode, size and mtime of the shard when it was verified; if one differs, it is fetched again
<sha256>.partial  a download, at its full size from the start; locked by its process, which alone may rename or remove
                  it; without a lock, a dead process left it
lock              held while room is made; its holder waits for no other lock, so there is no deadlock

A shard is downloaded whole, not sample by sample: stores are fast for large objects, and its checksum can be verified.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from pathlib import Path

from data_pipeline.files.hashing import descriptor_sha256
from data_pipeline.files.remote_files import RemoteErrors, public_url, remote_chunks
from data_pipeline.files.retries import with_retries
from data_pipeline.shards.cache_folder import CacheFolder, opened_folder

_POLL_SECONDS = 0.1
_NAME = re.compile(r"[0-9a-f]{64}\.(shard|partial)")


class ShardCache:
    """Local copies of remote shards: complete and partial ones together never exceed max_bytes.

    A copy that is evicted while it is open stays readable, and on the disk, until its descriptor is closed.
    """

    def __init__(self, path: Path, max_bytes: int, for_group: bool = False):
        """for_group: share the folder with the members of its group. Copies of another member are verified whenever
        they are opened; their owner could still change them afterwards, so members have to trust each other that far.
        """
        self.path = path
        self.max_bytes = max_bytes
        self.for_group = for_group

    def check_folder(self) -> None:
        """Create the folder. Raises OSError if others could plant files in it."""
        with self._opened():
            pass

    def fetch(self, url: str, num_bytes: int, sha256: str) -> None:
        """Fetch a shard without opening it. Threads that call this must start after any fork, which copies locks."""
        os.close(self.open(url, num_bytes, sha256))

    def open(self, url: str, num_bytes: int, sha256: str) -> int:
        """Return a read-only descriptor of the local copy, which one process fetches for all if there is none.

        Raises ValueError if the shard cannot be cached, OSError if the download fails or the disk is full.
        """
        if num_bytes > self.max_bytes:
            raise ValueError(
                f"shard {public_url(url)} of {num_bytes} bytes exceeds data.cache_bytes {self.max_bytes}; raise it"
            )
        if num_bytes < 1 or not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError(
                f"the index gives {public_url(url)} {num_bytes} bytes with SHA-256 {sha256!r}; index its folder again"
            )
        with self._opened() as folder:
            while True:
                descriptor = _verified(folder, num_bytes, sha256)
                if descriptor is not None:
                    return descriptor
                with folder.locked(f"{sha256}.partial") as writer:
                    descriptor = _verified(folder, num_bytes, sha256)
                    if descriptor is not None:  # fetched by the process that held the lock
                        folder.remove(f"{sha256}.partial")
                        return descriptor
                    folder.remove(f"{sha256}.shard")  # missing, or not the one that was verified
                    return self._fetch(folder, url, num_bytes, sha256, writer)

    def _opened(self) -> contextlib.AbstractContextManager[CacheFolder]:
        return opened_folder(self.path, self.for_group)

    def _fetch(self, folder: CacheFolder, url: str, num_bytes: int, sha256: str, writer: int) -> int:
        """Download into the partial file, whose lock this process holds, and turn it into a shard."""
        partial, complete = f"{sha256}.partial", f"{sha256}.shard"
        try:
            while not self._reserve(folder, writer, num_bytes):
                time.sleep(_POLL_SECONDS)
            with_retries(lambda: _download(url, num_bytes, sha256, writer), RemoteErrors(url))
        except BaseException:
            folder.remove(partial)
            raise
        now = time.time_ns()
        os.utime(writer, ns=(now, now))
        # The seal comes first: a process that found the shard without it would fetch the shard again. No fsync: this is
        # a cache, and what a crash of the machine damages fails its seal or the CRC of a sample.
        folder.write(f"{sha256}.seal", _seal(os.fstat(writer), sha256))
        descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.descriptor)
        folder.rename(partial, complete)  # from here on it may be evicted
        return descriptor

    def _reserve(self, folder: CacheFolder, writer: int, num_bytes: int) -> bool:
        """Return whether the partial file got its space. If not, other downloads fill the cache: wait for one."""
        with folder.locked("lock"):
            os.ftruncate(writer, 0)  # left by a dead download
            # partial files first: one that is completed in between counts twice rather than not at all
            partials = _files(folder, "partial")
            downloading = sum(size for _, size, name in partials if not _removed_as_dead(folder, name))
            shards = _files(folder, "shard")
            used = downloading + sum(size for _, size, _ in shards)
            while downloading + num_bytes <= self.max_bytes:
                if used + num_bytes <= self.max_bytes and _allocate(writer, num_bytes):
                    return True
                if not shards:
                    break
                _, size, oldest = shards.pop(0)
                folder.remove(oldest)
                folder.remove(oldest.replace("shard", "seal"))
                used -= size
            if downloading == 0:
                problem = f"the disk lacks {num_bytes} bytes even without any cached shard; free some space"
                raise OSError(errno.ENOSPC, problem, str(folder.path))
            return False


def _files(folder: CacheFolder, suffix: str) -> list[tuple[int, int, str]]:
    """Return last use, size and name of the cache's own files, least recently used first."""
    files = [(status.st_atime_ns, status.st_size, name) for name, status in folder.files() if _NAME.fullmatch(name)]
    return sorted(file for file in files if file[2].endswith(suffix))


def _removed_as_dead(folder: CacheFolder, partial: str) -> bool:
    with contextlib.suppress(BlockingIOError), folder.locked(partial, fcntl.LOCK_NB):
        folder.remove(partial)
        return True
    return False


def _verified(folder: CacheFolder, num_bytes: int, sha256: str) -> int | None:
    """Return a descriptor of the copy if it is the one that was verified, or another user's with the right checksum."""
    descriptor = folder.open(f"{sha256}.shard")
    if descriptor is None:
        return None
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid():
        is_sound = status.st_size == num_bytes and _read_seal(folder, sha256) == _seal(status, sha256)
    else:
        is_sound = folder.for_group and status.st_size == num_bytes and descriptor_sha256(descriptor) == sha256
        is_sound = is_sound and _seal(os.fstat(descriptor), sha256) == _seal(status, sha256)
    if not is_sound:
        os.close(descriptor)
        return None
    with contextlib.suppress(PermissionError):  # another user's file
        _used_now(descriptor)
    return descriptor


def _seal(status: os.stat_result, sha256: str) -> bytes:
    return f"{sha256} {status.st_ino} {status.st_size} {status.st_mtime_ns}\n".encode()


def _read_seal(folder: CacheFolder, sha256: str) -> bytes | None:
    """Return the seal of an own copy; None if this user wrote none."""
    descriptor = folder.open(f"{sha256}.seal")
    if descriptor is None:
        return None
    try:
        return os.pread(descriptor, 1000, 0) if os.fstat(descriptor).st_uid == os.geteuid() else None
    finally:
        os.close(descriptor)


def _allocate(writer: int, num_bytes: int) -> bool:
    """Return whether the disk has the space. All of it is allocated now, so that it cannot run out later."""
    try:
        os.posix_fallocate(writer, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.ftruncate(writer, 0)
        return False
    return True


def _used_now(descriptor: int) -> None:
    now = time.time_ns()  # the kernel's own timestamps are too coarse to order uses
    os.utime(descriptor, ns=(now, os.fstat(descriptor).st_mtime_ns))


def _download(url: str, num_bytes: int, sha256: str, writer: int) -> None:
    """Download the shard into the reserved file. Raises OSError if it is not the one in the index."""
    digest, size = hashlib.sha256(), 0
    os.lseek(writer, 0, os.SEEK_SET)
    with open(writer, "wb", closefd=False) as local:
        for chunk in remote_chunks(url, num_bytes):
            size += len(chunk)
            digest.update(chunk)
            if size > num_bytes:
                break  # never write more than was reserved
            local.write(chunk)
    if (size, digest.hexdigest()) != (num_bytes, sha256):
        raise OSError(
            f"it differs from its index, which has {num_bytes} bytes with SHA-256 {sha256}, not "
            f"{size if size <= num_bytes else 'more'} with {digest.hexdigest()}; restore it or index its folder again"
        )
