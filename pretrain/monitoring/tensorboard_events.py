"""TensorBoard's event files in RUN/tensorboard, one per start of the run.

Written record by record, without a buffer, so that a run that is killed has lost nothing. torch's SummaryWriter has a
thread and a buffer of its own: it would lose the last steps, and prints a traceback if the disk is full.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pretrain.survival.json_lines import append_whole

FOLDER_NAME = "tensorboard"


class TensorBoardEvents:
    """An event file of this start."""

    def __init__(self, run_dir: Path, first_step: int):
        """first_step: TensorBoard purges what earlier files have of this step and later ones. Raises OSError."""
        folder = run_dir / FOLDER_NAME
        folder.mkdir(exist_ok=True)  # without parents: a run folder that was moved away must not come back
        # readers take the files in the order of their names
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._add(Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Event(wall_time=seconds, step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        """Append a record, or nothing of it: a reader would stop at half a record. Raises OSError."""
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append_whole(self._file, record.getvalue())
