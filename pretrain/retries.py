"""Trying again what a file system may yet do."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

NUM_TRIALS = 4
FIRST_WAIT_SECONDS = 0.5
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""Failures that another trial does not mend."""

T = TypeVar("T")


def with_retries(action: Callable[[], T], what: str) -> T:
    """Write files, again after growing waits where that may help. Raises OSError."""
    for trial in range(NUM_TRIALS):
        try:
            return action()
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a file cannot be written
            cause = error if isinstance(error, OSError) else error.__context__
            number = cause.errno if isinstance(cause, OSError) else None
            if number in HOPELESS or trial == NUM_TRIALS - 1:
                reason = cause.strerror if isinstance(cause, OSError) else str(error)
                raise OSError(number, f"{what} cannot be written ({reason}); free space and start again") from error
            time.sleep(FIRST_WAIT_SECONDS * 2**trial)
    raise AssertionError
