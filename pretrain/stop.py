"""A request to stop, by signal: the step is finished, a checkpoint saved, the process ends with EXIT_STOPPED."""

import signal
from types import FrameType

EXIT_STOPPED = 75
"""Stopped on request and saved: start the same command again to continue (sysexits.h: EX_TEMPFAIL)."""
EXIT_USER_ERROR = 2
"""The command or the data is wrong: starting again would not help."""


class StopRequest:
    """Set by SIGTERM or SIGUSR1 on this rank; the ranks agree on it once a step."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
