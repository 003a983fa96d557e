"""A request to stop, by signal: the step is finished, a checkpoint saved, the process ends with EXIT_STOPPED."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EXIT_STOPPED = 75
"""Stopped on request and saved: start the same command again to continue (sysexits.h: EX_TEMPFAIL)."""


class StopRequest:
    """Set by SIGTERM, SIGUSR1 or Ctrl-C on this rank; the ranks agree on it once a step. A second Ctrl-C kills."""

    def __init__(self) -> None:
        self.is_set = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_process(exit_code: int) -> NoReturn:
    """End a rank without the interpreter's teardown.

    Threads of gloo, which groups that DeepSpeed holds keep alive, may still release tensors then, and a thread that
    asks a dying interpreter for its lock aborts the process: now and then another code would reach the launcher.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
