"""One JSON line per step in RUN/log.jsonl."""

import json
import math
import os
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_pipeline.files.retries import PERMANENT_ERRNOS, FileErrors, with_retries, written_with_retries
from pretrain.survival.console import warn
from pretrain.survival.json_lines import append_whole, read_records, restore_lines

LOG_NAME = "log.jsonl"


class RunLog:
    """The main rank's log. A resumed run drops the lines after its checkpoint, whose steps it repeats.

    A line that cannot be written must not end the main rank alone: `failure` keeps the error until all ranks agree.
    """

    def __init__(self, run_dir: Path, first_step: int):
        """first_step: steps done before this start. Raises OSError."""
        path = run_dir / LOG_NAME
        kept = restore_lines(path, is_log_line, itemgetter("step"), first_step)
        if missing := first_step - len(kept):
            warn(f"warning: {path} has no line for {missing} of the {first_step} steps before this start")
        self.path, self._file = path, path.open("ab", buffering=0)
        self.failure: OSError | None = None
        self._last_line = b""

    def write(self, record: dict[str, Any], is_kept: bool = False) -> None:
        """Add a line, null for each figure that is not finite.

        record: JSON values, with step, loss, losses, lr, grad_norm and seconds, perhaps figures of a SpeedMeter and of
        the job. is_kept: a checkpoint follows, so all lines so far are synced to disk.
        """
        line = (json.dumps(_finite(record)) + "\n").encode()
        try:
            written_with_retries(lambda: append_whole(self._file, line), self.path)
            self._last_line = line
            # errno None: the file was moved or replaced, which no retry mends
            with_retries(self.check_in_place, FileErrors((*PERMANENT_ERRNOS, None)))
        except OSError as error:
            self.failure = error
        if is_kept:
            self.sync()

    def sync(self) -> None:
        """Sync all lines so far to disk: a checkpoint follows."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.failure = error

    def check(self) -> None:
        """Raise OSError if a line could not be written, or the log is no longer in the run folder."""
        if self.failure is not None:
            raise self.failure
        self.check_in_place()

    def check_in_place(self) -> None:
        """Raise OSError if the log's path is no longer the file being written: a resume would not find its lines."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(self.path)
            if os.path.samestat(found, os.fstat(self._file.fileno())):
                return
            # some network file systems change a file's inode number; then its last line decides
            if found.st_size >= len(self._last_line) > 0 and self._end_of_file() == self._last_line:
                return
        raise OSError(
            f"{self.path} was moved, deleted or replaced while the run wrote it; put the folder back as it was and "
            "start again, or give a new run_dir"
        )

    def _end_of_file(self) -> bytes:
        """Return the bytes at the place of the last line in the file of that name."""
        with self.path.open("rb") as file:
            file.seek(-len(self._last_line), os.SEEK_END)
            return file.read()


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """Return the valid lines of a run's log, in their order. Raises OSError."""
    return read_records(run_dir / LOG_NAME, is_log_line)


def is_log_line(record: dict[str, Any]) -> bool:
    """Return whether a JSON object has the form of a log line."""
    step = record.get("step")
    return type(step) is int and step >= 0 and isinstance(record.get("loss", ""), int | float | None)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by None: JSON has none."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
