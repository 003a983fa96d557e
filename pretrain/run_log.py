"""One JSON line a step in RUN/log.jsonl, and a progress line now and then."""

import errno
import io
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from data_pipeline.retries import written_with_retries
from pretrain.console import say

PROGRESS_SECONDS = 5.0
LOG_NAME = "log.jsonl"


class RunLog:
    """The main rank's log. A resumed run goes on where its checkpoint was: later lines are dropped.

    A line that cannot be written is no reason to end one rank alone: `failure` says why, for all to agree on.
    """

    def __init__(self, run_dir: Path, first_step: int, num_steps: int):
        self.num_steps = num_steps
        path = run_dir / LOG_NAME
        kept = [line for line in read_log(run_dir) if line["step"] < first_step] if path.exists() else []
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        partial.rename(path)
        self.path, self._file = path, path.open("ab", buffering=0)
        self.failure: OSError | None = None
        self._last_progress = -math.inf

    def write(self, record: dict[str, Any], is_kept: bool = False) -> None:
        """record: JSON values, with step, loss, losses, lr, grad_norm and seconds, perhaps codebook and
        what a SpeedMeter tells. What is not finite
        becomes null. is_kept: a checkpoint follows, so all lines so far must outlive the machine."""
        line = (json.dumps(_finite(record)) + "\n").encode()
        try:
            written_with_retries(lambda: append_whole(self._file, line), self.path)
            if is_kept:
                os.fsync(self._file.fileno())
        except OSError as error:
            self.failure = error
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_SECONDS or record["step"] == self.num_steps - 1:
            self._last_progress = now
            parts = "  ".join(
                f"{name} {value:.3f}" for name, value in (record["losses"] | record.get("codebook", {})).items()
            )
            say(
                f"step {record['step'] + 1}/{self.num_steps}  loss {record['loss']:.3f}  {parts}  "
                f"grad norm {record['grad_norm']:.2f}  lr {record['lr']:.1e}  "
                f"{record['seconds']:.2f} s/step{_speed_in_words(record)}"
            )

    def check(self) -> None:
        """Raises OSError where a line could not be written."""
        if self.failure is not None:
            raise self.failure


def _speed_in_words(record: dict[str, Any]) -> str:
    tokens = f"  {record['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in record else ""
    return tokens + (f"  MFU {record['mfu']:.1%}" if "mfu" in record else "")


def append_whole(file: io.FileIO, content: bytes) -> None:
    """All of it, or nothing. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    try:
        if file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        file.truncate(size)
        raise


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return read_json_lines(run_dir / LOG_NAME)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that a run adds to. A last line that a kill cut short is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
