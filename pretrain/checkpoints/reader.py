"""Finding the newest sound checkpoint of a run, and reading its manifest and config.

A folder without a manifest does not exist for a resume. The others are compared with theirs before any of their files
is opened (manifest.py), and those are read as data: a checkpoint that someone crafted executes nothing.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch.distributed as dist

from data_pipeline.files.retries import with_retries
from model.weight_files import read_json_object
from pretrain.checkpoints.manifest import MANIFEST_NAME, Defect, find_defect, gravest, has_manifest, read_manifest
from pretrain.config.run_config import ConfigT, config_from_json
from pretrain.survival.agreement import TRANSIENT_ERRNOS, FatalRunError, RetryableRunError, in_words, on_every_rank
from pretrain.survival.console import warn

CONFIG_NAME = "config.json"
TEXT_TOKENIZER_NAME = "beit3.spm"
_COMPLETE = re.compile(r"step_\d{8}")


@dataclass(frozen=True)
class Checkpoint(Generic[ConfigT]):
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    """The number of steps that were done when it was saved."""
    world_size: int
    memory_config: dict[str, Any]
    """DeepSpeed's part of the configuration, on which the layout of the files depends."""
    data_fingerprints: dict[str, str]
    guard_state: dict[str, Any]
    """State of the run's StepGuard."""
    config: ConfigT

    @property
    def text_tokenizer(self) -> Path:
        return self.folder / TEXT_TOKENIZER_NAME

    @property
    def num_updates(self) -> int:
        """The number of steps that were applied."""
        return self.step - int(self.guard_state["num_skipped_steps"])


def latest_checkpoint(run_dir: Path, *kinds: type[ConfigT]) -> Checkpoint[ConfigT] | None:
    """Return the newest complete checkpoint of a run that is sound, or None if there is none.

    kinds: the configs of which it may be. Warns of those that are damaged or cannot be read. Raises ValueError if no
    other is left, or if one holds files that are not its own; OSError if the folder cannot be listed.
    """
    defects: list[Defect] = []
    for folder in complete_folders(run_dir / "checkpoints")[::-1]:
        defect = find_defect(folder)
        if defect is None:
            return _open(folder, kinds)
        _skip(defect)
        defects.append(defect)
    if defects:
        raise ValueError(_none_is_left(run_dir, defects))
    return None


def agreed_latest_checkpoint(config: ConfigT) -> Checkpoint[ConfigT] | None:
    """Return `latest_checkpoint` of a run, with the files divided among all ranks for verification. All ranks call it.

    Raises FatalRunError if `latest_checkpoint` raises ValueError, RetryableRunError if another start may be able to
    read one.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    names = [on_every_rank(lambda: _names_for_all(config.run_dir / "checkpoints") if rank == 0 else [])]
    dist.broadcast_object_list(names)  # a network file system may show other folders to other nodes
    defects: list[Defect] = []
    for name in names[0]:
        folder = config.run_dir / "checkpoints" / name
        found: list[Defect | None] = [None] * world_size
        dist.all_gather_object(found, find_defect(folder, rank, world_size))
        first = gravest(found)
        if first is None:
            return on_every_rank(partial(_open, folder, (type(config),)))
        on_every_rank(partial(_skip, first, is_reported=rank == 0))
        defects.append(first)
    if defects:
        is_passing = any(defect.errno in TRANSIENT_ERRNOS for defect in defects)
        raise (RetryableRunError if is_passing else FatalRunError)(_none_is_left(config.run_dir, defects))
    return None


def read_checkpoint(folder: Path, *kinds: type[ConfigT]) -> Checkpoint[ConfigT]:
    """Verify a checkpoint and return its description.

    Raises ValueError, naming the file, if it is damaged, cannot be read, holds files that are not its own, or is of
    another kind of run.
    """
    if not has_manifest(folder):
        raise ValueError(f"{folder} is not a complete checkpoint: it has no {MANIFEST_NAME}")
    defect = find_defect(folder)
    if defect is not None:
        remedy = "move that away" if defect.kind == "foreign" else "give another checkpoint"
        raise ValueError(f"{defect}; {remedy}")
    return _open(folder, kinds)


def describe_unverified(folder: Path, *kinds: type[ConfigT]) -> Checkpoint[ConfigT]:
    """Return the description of a checkpoint whose files were not compared with its manifest.

    Raises ValueError if it is of another kind of run, or its manifest or config is damaged.
    """
    return _open(folder, kinds)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is named as a complete checkpoint and has a manifest."""
    return _COMPLETE.fullmatch(folder.name) is not None and has_manifest(folder)


def complete_folders(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first. Raises OSError."""
    return [path for path in _step_folders(folder) if has_manifest(path)]


def _names_for_all(folder: Path) -> list[str]:
    """Return the names of complete checkpoints, newest first; warn of the others. Raises OSError."""
    for path in _step_folders(folder):
        if not has_manifest(path):
            warn(f"warning: {path} has no {MANIFEST_NAME} and is ignored")
    return [path.name for path in complete_folders(folder)[::-1]]


def _step_folders(folder: Path) -> list[Path]:
    """Return the folders named as checkpoints, oldest first.

    Raises OSError, in a sentence, if the folder cannot be read: a run that took it for empty would start anew.
    """
    try:
        names = with_retries(lambda: os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise in_words(
            error, f"{folder} cannot be read ({error.strerror}); make it readable and start again"
        ) from error
    return [folder / name for name in sorted(names) if _COMPLETE.fullmatch(name)]


def _open(folder: Path, kinds: Sequence[type[ConfigT]]) -> Checkpoint[ConfigT]:
    """Return the description of a verified checkpoint. Raises ValueError if it is of another kind of run."""
    manifest = read_manifest(folder)
    kind = next((kind for kind in kinds if manifest.kind == kind.KIND), None)
    if kind is None:
        expected = " or ".join(kind.KIND for kind in kinds)
        raise ValueError(f"{folder} is a checkpoint of {manifest.kind}, not of {expected}; give another folder")
    return Checkpoint(
        folder=folder,
        step=manifest.step,
        world_size=manifest.world_size,
        memory_config=manifest.memory_config,
        data_fingerprints=manifest.data_fingerprints,
        guard_state=manifest.guard_state,
        config=_read_config(folder / CONFIG_NAME, kind),
    )


def _read_config(path: Path, kind: type[ConfigT]) -> ConfigT:
    """Raise ValueError, naming the first problem, if a file is not a config of that kind."""
    try:
        return config_from_json(kind, json.dumps(read_json_object(path)))
    except ValueError as error:
        problem = str(error).removeprefix(f"{path} ")
        raise ValueError(f"{path} is not a config of {kind.KIND}: {problem}; give another folder") from error


def _skip(defect: Defect, is_reported: bool = True) -> None:
    """Report that an older checkpoint is used. Raises ValueError if that would hide files that somebody put there."""
    if defect.kind == "foreign":
        raise ValueError(f"{defect}; move it away")
    if is_reported:
        warn(f"warning: {defect}; the checkpoint before it is used")


def _none_is_left(run_dir: Path, defects: list[Defect]) -> str:
    unreadable = next((defect for defect in defects if defect.kind == "unreadable"), None)
    if unreadable is None:
        return f"every checkpoint of {run_dir} is damaged; give a new run_dir"
    return f"no checkpoint of {run_dir} can be used: {unreadable}; make it readable, or give a new run_dir"
