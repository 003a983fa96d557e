"""The files that one rank writes of a checkpoint: a snapshot in memory first, then files in the background.

DeepSpeed hands its state over through a checkpoint engine. This one copies it into host memory, so that training goes
on while a thread writes; keeps errors instead of raising them on one rank alone; computes a checksum as it writes; and
reads files as data, without executing code that a pickle may hold.
"""

import hashlib
import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch.utils._pytree import tree_map_only

from data_pipeline.files.retries import written_with_retries
from model.weight_files import read_torch_file

STATE_TYPES = (LossScaler, ZeroStageEnum, fragment_address)
"""Classes of DeepSpeed that its state holds besides tensors, numbers and containers: named numbers, without code."""
FileDescription = dict[str, Any]
"""num_bytes and sha256 of a file."""


class BackgroundCheckpointEngine(CheckpointEngine):  # type: ignore[misc]
    """DeepSpeed's checkpoint engine of this rank. One checkpoint is under way at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._files: dict[Path, Future[FileDescription]] = {}
        self._failures: list[OSError] = []
        self._folder = Path()

    def begin(self, folder: Path) -> None:
        """Forget the previous checkpoint; the next one is written into the folder."""
        assert self.is_written
        self._folder, self._files, self._failures = folder, {}, []

    @property
    def is_written(self) -> bool:
        """Whether no file is being written."""
        return all(file.done() for file in self._files.values())

    def written(self) -> dict[str, FileDescription]:
        """Wait until the files of this rank are on disk, and return them by their path in the folder.

        Raises the OSError of the first that failed.
        """
        described = {str(path.relative_to(self._folder)): file.result() for path, file in self._files.items()}
        if self._failures:
            raise self._failures[0]
        return described

    def save(self, state_dict: Any, path: str) -> None:
        # a torch.Size is a leaf here: the tree map would turn it into a plain tuple
        state = tree_map_only(
            (torch.Tensor, ZeroStageEnum), _snapshot, state_dict, is_leaf=lambda part: isinstance(part, torch.Size)
        )
        # one writer per rank: files of one checkpoint go to disk one after the other
        self._files[Path(path)] = self._writer.submit(write_file, Path(path), state)

    def load(self, path: str, map_location: Any = None) -> Any:
        return read_state(Path(path), map_location)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            Path(path).mkdir(parents=True, exist_ok=exist_ok)
        except OSError as error:
            self._failures.append(error)

    def create(self, info: CheckpointCommitInfo) -> None:
        """Do nothing; DeepSpeed calls it before a save."""

    def commit(self, info: CheckpointCommitInfo) -> bool:
        """Do nothing; DeepSpeed calls it after a save, but a checkpoint is complete once its manifest is."""
        return True


def read_state(path: Path, map_location: Any = "cpu", is_mapped: bool = False) -> Any:
    """Return the content of a file of DeepSpeed's state, read as data.

    Raises ValueError, naming what it found, if the file holds code; OSError if it cannot be read.
    """
    return read_torch_file(path, STATE_TYPES, map_location, is_mapped)


def write_file(path: Path, state: Any) -> FileDescription:
    """Write a state to disk with torch.save; return size and checksum. Raises OSError."""

    def write() -> FileDescription:
        with path.open("wb") as file:
            hashing = _HashingFile(file)
            torch.save(state, hashing)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        return {"num_bytes": hashing.num_bytes, "sha256": hashing.digest.hexdigest()}

    return written_with_retries(write, path)


class _HashingFile(io.RawIOBase):
    """A file that computes the checksum of what is written to it."""

    def __init__(self, file: io.BufferedWriter):
        self.file, self.digest, self.num_bytes = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.num_bytes += self.file.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self.file.flush()

    def writable(self) -> bool:
        return True


def _snapshot(value: torch.Tensor | ZeroStageEnum) -> torch.Tensor | int:
    """Return a copy in host memory that training does not change, of the ZeRO stage its number."""
    if isinstance(value, ZeroStageEnum):
        return int(value)  # some Pythons, such as 3.11.2, pickle an enum as a call of getattr, which reads as code
    return value.detach().to("cpu", copy=True).contiguous()
