"""One job per run: a second start waits until the first has ended, which may be left over from a lost launcher."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline.samples.sample import printable
from pretrain.survival.agreement import RetryableRunError, in_words
from pretrain.survival.console import say, warn

LOCK_NAME = "lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of file systems without locks."""


def lock_run(run_dir: Path, wait_seconds: float, is_stopped: Callable[[], bool]) -> None:
    """Lock the run until this process ends, in whatever way.

    A POSIX record lock: loader workers do not inherit it, and network file systems share it between nodes. The process
    must not open the file again: closing any of its descriptors would release the lock.
    Raises RetryableRunError if another job still holds it after that time, or if a stop is requested.
    """
    path = run_dir / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)  # never closed
    except OSError as error:
        raise in_words(error, f"{path} cannot be opened ({error.strerror}); move it away and start again") from error
    deadline, is_reported = time.monotonic() + wait_seconds, False
    while not _try(descriptor):
        holder = printable(os.pread(descriptor, 1000, 0).decode(errors="replace").strip("\0 \n")) or "another job"
        if is_stopped():
            raise RetryableRunError(f"stopped while {run_dir} was in use by {holder}; start again")
        if time.monotonic() > deadline:
            raise RetryableRunError(
                f"{run_dir} is in use by {holder}; end it, or delete {path} if its file system keeps locks of dead "
                "processes"
            )
        if not is_reported:
            say(f"{run_dir} is in use by {holder}; waiting up to {wait_seconds:.0f} s for its end")
            is_reported = True
        time.sleep(0.2)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _try(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            warn("warning: run_dir is on a file system without locks: do not start a second job in it")
            return True
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True
