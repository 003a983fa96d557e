"""One writer per part of a folder of shards, on all nodes that see it.

The lock is a POSIX record lock on a file of slots, one per part and one for the plan: network file systems honor it
across nodes, the kernel releases it however the process ends, and each task of a job array holds a slot of its own.
"""

import errno
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.files.retries import naming_write_errors

LOCK_NAME = "lock"
"""Name of the file of slots, in the folder of the scans."""
SLOT_BYTES = 128
PLAN_SLOT = 0
WAIT_SECONDS = 120.0
"""Longer than NFS keeps the locks of a node that has died (90 s)."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of file systems without locks."""


class FolderLock:
    """The locks of this process on a folder. Only one per process and folder: closing it releases all of them."""

    def __init__(self, path: Path, part: int, wait_seconds: float):
        self.path, self.wait_seconds = path, wait_seconds
        self._part_slot = 1 + part
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def hold_part(self) -> None:
        """Lock the part. Raises ValueError if another process still holds it after the waiting time."""
        self._wait_for(self._part_slot)

    @contextmanager
    def plan(self) -> Iterator[None]:
        """Hold the slot of the plan, which all parts share, for the duration of the block."""
        self._wait_for(PLAN_SLOT)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, PLAN_SLOT * SLOT_BYTES, SLOT_BYTES)

    def is_alone(self) -> bool:
        """Return whether no other part is being written."""
        own = self._part_slot * SLOT_BYTES
        before = [(SLOT_BYTES, own - SLOT_BYTES)] if own > SLOT_BYTES else []
        for start, length in (*before, (own + SLOT_BYTES, 0)):
            if not self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, start, length):
                return False
            self._lock(fcntl.LOCK_UN, start, length)
        return True

    def close(self) -> None:
        os.close(self._descriptor)

    def _wait_for(self, slot: int) -> None:
        deadline, is_announced = time.monotonic() + self.wait_seconds, False
        start = slot * SLOT_BYTES
        while not self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, start, SLOT_BYTES):
            holder = os.pread(self._descriptor, SLOT_BYTES, start).decode(errors="replace").strip("\0 \n")
            holder = holder or "another command"
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{self.path.parent.parent} is being written by {holder}; wait for it to finish, or delete "
                    f"{self.path} if the file system keeps the lock of a dead process"
                )
            if not is_announced:
                waiting = f"waiting up to {self.wait_seconds:.0f} s for it to finish"
                print(f"{self.path.parent.parent} is being written by {holder}; {waiting}", file=sys.stderr, flush=True)
                is_announced = True
            time.sleep(0.2)
        text = f"process {os.getpid()} on {socket.gethostname()}".encode()[: SLOT_BYTES - 1]
        os.pwrite(self._descriptor, text.ljust(SLOT_BYTES - 1) + b"\n", start)

    def _lock(self, operation: int, start: int, length: int) -> bool:
        """Return whether the bytes could be locked or unlocked. length 0: to the end, however long the file grows."""
        try:
            fcntl.lockf(self._descriptor, operation, length, start)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                print(
                    f"warning: {self.path} is on a file system without locks: do not write to it with two commands",
                    file=sys.stderr,
                )
                return True
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        return True


@contextmanager
def folder_lock(path: Path, part: int, wait_seconds: float = WAIT_SECONDS) -> Iterator[FolderLock]:
    """Hold a part of a folder. path: the file of slots. Raises ValueError if another process keeps writing the part."""
    with naming_write_errors(path):
        lock = FolderLock(path, part, wait_seconds)
    try:
        lock.hold_part()
        yield lock
    finally:
        lock.close()
