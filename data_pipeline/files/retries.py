"""Trying again what a file system may yet do."""

import errno
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import TypeVar

NUM_TRIALS = 4
FIRST_WAIT_SECONDS = 0.5
FULL = (errno.ENOSPC, errno.EDQUOT)
PERMANENT_ERRNOS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)
"""Failures that another trial does not mend."""

T = TypeVar("T")


def with_retries(action: Callable[[], T], hopeless: Container[int | None] = PERMANENT_ERRNOS) -> T:
    """What the action gives, tried again after growing waits where that may help. Raises its last OSError."""
    for trial in range(NUM_TRIALS):
        try:
            return action()
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a file cannot be written
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            if cause.errno in hopeless or trial == NUM_TRIALS - 1:
                raise cause from None
            time.sleep(FIRST_WAIT_SECONDS * 2**trial)
    raise AssertionError


def written_with_retries(action: Callable[[], T], path: object) -> T:
    """An action that writes a file. Raises OSError with a sentence that names it, and the errno."""
    try:
        return with_retries(action)
    except OSError as error:
        raise cannot_be_written(path, error) from error


def cannot_be_written(path: object, error: OSError) -> OSError:
    """A sentence in place of an errno, which it keeps."""
    remedy = "free space and start again" if error.errno in FULL else "see to the file system and start again"
    told = OSError(f"{path} cannot be written ({error.strerror or error}); {remedy}")
    told.errno = error.errno
    return told


@contextmanager
def told_if_not_written(path: object) -> Iterator[None]:
    """Writing below a path: an errno becomes a sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # a sentence already
            raise
        raise cannot_be_written(error.filename or path, error) from error
