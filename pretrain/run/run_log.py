"""One JSON line a step in RUN/log.jsonl, and a progress line now and then."""

import json
import math
import os
import time
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

from data_pipeline.files.retries import PERMANENT_ERRNOS, with_retries, written_with_retries
from pretrain.survival.console import say, warn
from pretrain.survival.json_lines import append_whole, read_records, restore_lines

PROGRESS_SECONDS = 5.0
LOG_NAME = "log.jsonl"


class RunLog:
    """The main rank's log. A resumed run goes on where its checkpoint was: later lines are dropped.

    A line that cannot be written is no reason to end one rank alone: `failure` says why, for all to agree on.
    """

    def __init__(self, run_dir: Path, first_step: int, num_steps: int, progress_fields: tuple[str, ...] = ("losses",)):
        """progress_fields: fields of a record, dicts of figures, that the progress line prints. Raises OSError."""
        self.num_steps = num_steps
        self.progress_fields = progress_fields
        path = run_dir / LOG_NAME
        kept = restore_lines(path, is_log_line, itemgetter("step"), first_step)
        if missing := first_step - len(kept):
            warn(f"warning: {path} has no line for {missing} of the {first_step} steps before this start")
        self.path, self._file = path, path.open("ab", buffering=0)
        self.failure: OSError | None = None
        self._last_line = b""
        self._last_progress = -math.inf

    def write(self, record: dict[str, Any], is_kept: bool = False) -> None:
        """Add a line, with null for what is not finite, and now and then print progress.

        record: JSON values, with step, loss, losses, lr, grad_norm and seconds, perhaps codebook and what a SpeedMeter
        adds. is_kept: a checkpoint follows, so all lines so far must outlive the machine.
        """
        line = (json.dumps(_finite(record)) + "\n").encode()
        try:
            written_with_retries(lambda: append_whole(self._file, line), self.path)
            if is_kept:
                os.fsync(self._file.fileno())
            self._last_line = line
            with_retries(self.check_in_place, hopeless=(*PERMANENT_ERRNOS, None))  # None: it is another file
        except OSError as error:
            self.failure = error
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS or record["step"] == self.num_steps - 1:
            self._last_progress = now
            figures = [item for field in self.progress_fields for item in record.get(field, {}).items()]
            parts = "  ".join(f"{name} {value:.3f}" for name, value in figures)
            say(
                f"step {record['step'] + 1}/{self.num_steps}  loss {record['loss']:.3f}  {parts}  "
                f"grad norm {record['grad_norm']:.2f}  lr {record['lr']:.1e}  "
                f"{record['seconds']:.2f} s/step{_speed_in_words(record)}"
            )

    def check(self) -> None:
        """Raise OSError if a line could not be written, or the log is no longer in the run folder."""
        if self.failure is not None:
            raise self.failure
        self.check_in_place()

    def check_in_place(self) -> None:
        """Raise OSError if the name of the log no longer leads to what is written: another start would not find it."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(self.path)
            if os.path.samestat(found, os.fstat(self._file.fileno())):
                return
            # some network file systems number a file anew; then its end decides
            if found.st_size >= len(self._last_line) > 0 and self._end_of_file() == self._last_line:
                return
        raise OSError(
            f"{self.path} was moved, deleted or replaced while the run wrote it; put the folder back as it was and "
            "start again, or give a new run_dir"
        )

    def _end_of_file(self) -> bytes:
        """What the file of that name has where the last line should be."""
        with self.path.open("rb") as file:
            file.seek(-len(self._last_line), os.SEEK_END)
            return file.read()


def _speed_in_words(record: dict[str, Any]) -> str:
    tokens = f"  {record['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in record else ""
    return tokens + (f"  MFU {record['mfu']:.1%}" if "mfu" in record else "")


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """Return the sound lines of a run's log, as they stand there. Raises OSError."""
    return read_records(run_dir / LOG_NAME, is_log_line)


def is_log_line(record: dict[str, Any]) -> bool:
    step = record.get("step")
    return type(step) is int and step >= 0 and isinstance(record.get("loss", ""), int | float | None)


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
