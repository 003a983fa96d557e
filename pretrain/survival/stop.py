"""How a run is stopped, and how it reports its ending: exit codes, and a status file for job scripts."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn

from data_pipeline.settings.command_line import EXIT_USER_ERROR
from data_pipeline.workers.pool import PR_SET_PDEATHSIG
from pretrain.survival.console import end_live, warn
from pretrain.survival.startup_log import forget_startup

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
STOP_FILE_NAME = "stop"
EXIT_RANK_LOST = 71
"""A rank died, hung or failed, or another job holds the run: rerun the same command to resume."""
EXIT_STOPPED = 75
"""Stopped by a signal and saved: rerun the same command to resume (sysexits.h: EX_TEMPFAIL)."""
EXIT_STOPPED_BY_FILE = 76
"""Stopped by RUN/stop and saved: deliberate, so that no job script restarts it."""
EXIT_MANY_SKIPPED = 77
"""All steps are done and saved, but too many of them were skipped (step_guard.MAX_SKIPPED_SHARE)."""

Ending = Literal["complete", "many_skipped", "stopped", "stopped_by_file", "mistake"]
EXIT_CODES: dict[Ending, int] = {
    "complete": 0,
    "many_skipped": EXIT_MANY_SKIPPED,
    "stopped": EXIT_STOPPED,
    "stopped_by_file": EXIT_STOPPED_BY_FILE,
    "mistake": EXIT_USER_ERROR,
}


class StopRequest:
    """A request to stop, by SIGTERM, SIGUSR1 or Ctrl-C on this rank, or by the file RUN/stop.

    The ranks agree on it once per step, save and end together. A second Ctrl-C kills.
    """

    def __init__(self, run_dir: Path) -> None:
        self.signalled = False
        self.file = run_dir / STOP_FILE_NAME
        for number in STOP_SIGNALS:
            signal.signal(number, self._handle)
        if any(argument.startswith("--local_rank") for argument in sys.argv):
            # DeepSpeed's launcher started this rank; if it is killed, nothing else would stop its ranks
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    @property
    def is_asked_by_file(self) -> bool:
        # unlike Path.exists, False if the folder cannot be read: the log reports that
        return os.path.exists(self.file)

    def forget_file(self) -> None:
        """Delete the file after the stop; if that fails, the next start stops again."""
        with suppress(OSError):
            self.file.unlink()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signalled = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def ignore_stop_signals() -> None:
    """Ignore them in a loader worker: a signal to the whole process group must not kill it under a rank that saves."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class JobStatus:
    """One line for a job script, in the file that IMGLISH_STATUS_FILE names: `STEP WORD FOUND`.

    STEP: steps in the newest checkpoint. WORD: running, complete, many_skipped, stopped, stopped_by_file, or mistake if
    another start would meet the same error. FOUND: steps in the checkpoint that this start found, 0 if there was none.
    A rank that dies leaves `running`. srun kills all ranks as soon as one ends with a nonzero code, so with such a file
    the ending is written there alone and the exit code is 0.
    """

    def __init__(self) -> None:
        self.path = os.environ.get("IMGLISH_STATUS_FILE", "")
        self.step = self.found = 0

    def begin(self, found: int) -> None:
        """Write that the run goes on, on the main rank. found: steps in the loaded checkpoint. Raises OSError."""
        self.step = self.found = found
        self._write("running")

    def saved(self, step: int) -> None:
        """Write the step of a new checkpoint, on the main rank. Raises OSError."""
        self.step = step
        self._write("running")

    def _write(self, word: Ending | Literal["running"]) -> None:
        if self.path:
            partial = Path(f"{self.path}.partial")
            partial.write_text(f"{self.step} {word} {self.found}\n")
            partial.rename(self.path)

    def report(self, ending: Ending) -> bool:
        """Write how the run ended, on the main rank. Returns whether a file has it, so that the exit code is 0."""
        try:
            if os.environ.get("RANK", "0") == "0":
                self._write(ending)
        except OSError:
            return False
        return bool(self.path)


def end_as_mistake(message: str) -> NoReturn:
    """End this rank for a mistake that was found before the run began; the main rank prints the message."""
    if message and os.environ.get("RANK", "0") == "0":
        warn(f"error: {message}")
    forget_startup()
    end_process(0 if JobStatus().report("mistake") else EXIT_USER_ERROR)


def end_process(exit_code: int) -> NoReturn:
    """End a rank with an exit code, without the interpreter's teardown.

    Process groups that DeepSpeed holds keep threads of gloo alive. If one releases a tensor while the interpreter shuts
    down, it asks for a lock that is gone and aborts the process: now and then another code would reach the launcher.
    """
    try:
        end_live()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(exit_code)
