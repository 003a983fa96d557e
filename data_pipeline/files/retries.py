"""Retrying an action on a file that may yet succeed, and write errors as sentences that name the file."""

import errno
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

FIRST_WAIT_SECONDS = 0.5
"""Wait after the first failure; each further wait is twice as long."""
FULL = (errno.ENOSPC, errno.EDQUOT)
PERMANENT_ERRNOS = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors that a retry does not mend."""

T = TypeVar("T")


class RetryPolicy(Protocol):
    """How often an action is tried, and which of its errors end the attempts."""

    @property
    def num_attempts(self) -> int:
        """The number of attempts in all."""

    def final_error(self, error: Exception, is_last: bool) -> Exception | None:
        """Return the exception to raise after this error, or None to try again. is_last: no attempt is left."""


@dataclass(frozen=True)
class FileErrors:
    """The policy for local and network file systems: OSErrors are retried unless they are permanent."""

    permanent: Container[int | None] = PERMANENT_ERRNOS
    """The errnos that end the attempts at once."""
    num_attempts: int = 4

    def final_error(self, error: Exception, is_last: bool) -> Exception | None:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save wraps what the disk raised
        if not isinstance(cause, OSError):
            return error
        return cause if is_last or cause.errno in self.permanent else None


def with_retries(action: Callable[[], T], policy: RetryPolicy | None = None) -> T:
    """Return the result of an action, retried after growing waits as the policy says (FileErrors by default).

    Raises the policy's final error. It is not chained to the errors that the action met: a policy that hides the
    secrets in them must not have a traceback print them.
    """
    policy = policy or FileErrors()
    for attempt in range(policy.num_attempts):
        try:
            return action()
        except Exception as error:
            final = policy.final_error(error, is_last=attempt == policy.num_attempts - 1)
            if final is error:
                raise
        if final is not None:  # outside of the except block, which would make the error its context
            raise final from None
        time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def written_with_retries(action: Callable[[], T], path: object) -> T:
    """Return the result of an action that writes a file.

    Raises OSError, with its errno and a sentence that names the path.
    """
    try:
        return with_retries(action)
    except OSError as error:
        raise cannot_be_written(path, error) from error


def cannot_be_written(path: object, error: OSError) -> OSError:
    """Return the error with the same errno and a sentence that names the path and the remedy."""
    remedy = "free space and start again" if error.errno in FULL else "see to the file system and start again"
    sentence = OSError(f"{path} cannot be written ({error.strerror or error}); {remedy}")
    sentence.errno = error.errno
    return sentence


@contextmanager
def naming_write_errors(path: object) -> Iterator[None]:
    """Replace an OSError of the block, which writes below a path, by a sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # already a sentence
            raise
        raise cannot_be_written(error.filename or path, error) from error
