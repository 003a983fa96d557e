"""Checkpoints that are complete or absent.

    RUN/checkpoints/step_00000300/            DeepSpeed's sharded files, config.json, the text tokenizer
    RUN/checkpoints/step_00000300/manifest.json   size and SHA-256 of each of them, versions, what data it was

All ranks write into `step_N.partial`; when the manifest is on disk the folder gets its name. What has no manifest does
not exist for a resume. Folders are compared with it before any of their files is opened (manifest.py), and what is
opened is read as data: a checkpoint that someone crafted executes nothing (background_files.py).
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic

import deepspeed
import torch.distributed as dist

from data_pipeline.files.retries import with_retries, written_with_retries
from model.weight_files import read_json_object
from pretrain.checkpoints.background_files import BackgroundCheckpointEngine, FileDescription
from pretrain.checkpoints.manifest import (
    MANIFEST_NAME,
    Defect,
    find_defect,
    gravest,
    has_manifest,
    read_manifest,
    sync,
    write_manifest,
)
from pretrain.checkpoints.partitions import check_own_files
from pretrain.config.run_config import ConfigT, RunConfig, config_from_json, config_to_json
from pretrain.engine.optimizer import adopt_state, group_settings
from pretrain.survival.agreement import (
    TRANSIENT_ERRNOS,
    FatalRunError,
    RetryableRunError,
    RunError,
    in_words,
    on_every_rank,
)
from pretrain.survival.console import warn

CONFIG_NAME = "config.json"
TEXT_TOKENIZER_NAME = "beit3.spm"
_COMPLETE = re.compile(r"step_\d{8}")
_PUT_BACK = "put the run folder back as it was and start again, or give a new run_dir"


@dataclass(frozen=True)
class Checkpoint(Generic[ConfigT]):
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    """Steps that were done when it was saved."""
    world_size: int
    memory_config: dict[str, Any]
    """DeepSpeed's part of the configuration, which lays out the files."""
    data_fingerprints: dict[str, str]
    guard_state: dict[str, Any]
    """Of StepGuard."""
    config: ConfigT

    @property
    def text_tokenizer(self) -> Path:
        return self.folder / TEXT_TOKENIZER_NAME

    @property
    def num_updates(self) -> int:
        """Steps that were applied."""
        return self.step - int(self.guard_state["num_skipped_steps"])


class CheckpointSaver:
    """Saves the checkpoints of a run, one at a time: a snapshot at once, the files in the background.

    All ranks call every method in the same order.
    """

    def __init__(
        self,
        engine: deepspeed.DeepSpeedEngine,
        config: RunConfig,
        memory_config: dict[str, Any],
        data_fingerprints: dict[str, str],
        extra_files: Mapping[str, bytes],
    ):
        """memory_config: what the run's ds_configs/*.json holds; extra_files: of the job, by name. Raises OSError."""
        self.engine, self.config, self.data_fingerprints = engine, config, data_fingerprints
        self.memory_config = memory_config
        self.extra_files = extra_files
        self.folder = config.run_dir / "checkpoints"
        self.files = BackgroundCheckpointEngine()
        self.step: int | None = None
        """Of the checkpoint that is under way."""
        self.guard_state: dict[str, Any] = {}
        self._num_updates: dict[Path, int] = {}
        self._deleting = ThreadPoolExecutor(1, "delete checkpoints")
        if dist.get_rank() == 0:
            for leftover in self.folder.glob("*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
        engine.checkpoint_engine = self.files
        engine._copy_recovery_script = lambda _: None  # would fail on one rank alone; pretrain.convert does its work

    @property
    def is_written(self) -> bool:
        """Whether this rank has written its files of a checkpoint that is not finished."""
        return self.step is not None and self.files.is_written

    def begin(self, step: int, guard_state: dict[str, Any]) -> None:
        """Take the state after `step` steps. Raises FatalRunError where the folder cannot be made."""
        assert self.step is None
        folder = self._partial(step)
        on_every_rank(lambda: self._make(folder) if dist.get_rank() == 0 else None)
        self.step, self.guard_state = step, guard_state
        self.files.begin(folder)
        self.engine.save_checkpoint(self.folder, tag=folder.name, save_latest=False)

    def finish(self) -> Path | None:
        """Wait until all ranks have written, and complete the checkpoint; returns its folder, None where none began.

        Raises FatalRunError where any rank could not write: the checkpoint before it stays.
        """
        if self.step is None:
            return None
        step, self.step = self.step, None
        try:
            own = on_every_rank(self.files.written)
        except RunError:
            if dist.get_rank() == 0:
                shutil.rmtree(self._partial(step), ignore_errors=True)
            raise
        per_rank: list[dict[str, FileDescription]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(per_rank, own)
        described = {name: description for files in per_rank for name, description in files.items()}
        on_every_rank(lambda: self._complete(step, described) if dist.get_rank() == 0 else None)
        return self.folder / f"step_{step:08d}"

    def _partial(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.partial"

    def _make(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()  # without parents: a run folder that was moved away must not be begun anew
        except OSError as error:
            raise in_words(error, f"{folder} cannot be made ({error.strerror}); {_PUT_BACK}") from error

    def _complete(self, step: int, described: dict[str, FileDescription]) -> None:
        """On the main rank: the files that are not DeepSpeed's, the manifest, the name, and what is no longer kept."""
        folder, final = self._partial(step), self.folder / f"step_{step:08d}"

        def write() -> None:
            (folder / CONFIG_NAME).write_text(config_to_json(self.config))
            for name, content in self.extra_files.items():
                (folder / name).write_bytes(content)
            header = {
                "kind": self.config.KIND,
                "step": step,
                "world_size": dist.get_world_size(),
                "memory_config": self.memory_config,
                "versions": {name: version(name) for name in ("torch", "deepspeed")},
                "data_fingerprints": self.data_fingerprints,
                "guard_state": self.guard_state,
            }
            write_manifest(folder, header, described)

        written_with_retries(write, folder)
        if final.exists():
            self._delete(final)
        folder.rename(final)
        sync(self.folder)
        self._num_updates[final] = step - int(self.guard_state["num_skipped_steps"])
        # later ones were passed over as damaged when the run started: they must not count as the newest
        folders = [other for other in _complete_folders(self.folder) if other.name <= final.name]
        for old in outdated({folder: self._updates(folder) for folder in folders}, self.config):
            self._delete(old)

    def _updates(self, folder: Path) -> int | None:
        """Steps that were applied before a checkpoint; None if its manifest cannot be read."""
        if folder not in self._num_updates:
            with suppress(OSError, ValueError, LookupError):
                manifest = read_manifest(folder)
                self._num_updates[folder] = manifest.step - int(manifest.guard_state["num_skipped_steps"])
        return self._num_updates.get(folder)

    def _delete(self, folder: Path) -> None:
        """Take away the name first: a kill halfway must not leave what looks complete. The rest takes its time."""
        retired = folder.with_name(f"{folder.name}.retired.partial")
        folder.rename(retired)
        self._deleting.submit(shutil.rmtree, retired, ignore_errors=True)

    def close(self) -> None:
        """After the last checkpoint: wait for what is being deleted."""
        self._deleting.shutdown()


def outdated(num_updates: Mapping[Path, int | None], config: RunConfig) -> list[Path]:
    """Return the checkpoints that are not kept.

    num_updates: of complete ones, oldest first, the steps that were applied before each; None: unknown. Kept are the
    newest, every Nth step, and the newest of progress: those before which a step was applied since the checkpoint
    before. So skipped steps, which change no weight, do not displace what a run could go back to.
    """
    progress, most = [], 0
    for folder, updates in num_updates.items():
        if updates is not None and updates > most:
            progress.append(folder)
            most = updates
    kept = {*progress[-config.keep_checkpoints :], *list(num_updates)[-1:]}
    every = config.keep_every_steps
    return [
        folder
        for folder, updates in num_updates.items()
        if updates is not None
        and folder not in kept
        and not (every and int(folder.name.removeprefix("step_")) % every == 0)
    ]


def check_there(folder: Path) -> None:
    """Raise OSError if a checkpoint that was completed lacks a file or a part of one. Reads no contents."""
    try:
        files = read_manifest(folder).files
        lacking = next((name for name in files if (folder / name).stat().st_size != files[name]["num_bytes"]), None)
    except (OSError, ValueError) as error:
        said = f"{folder} was moved, deleted or damaged after it was saved ({error}); {_PUT_BACK}"
        raise in_words(error, said) from error
    if lacking is not None:
        raise OSError(f"{folder / lacking} was damaged after it was saved; {_PUT_BACK}")


def latest_checkpoint(run_dir: Path, kind: type[ConfigT]) -> Checkpoint[ConfigT] | None:
    """The newest complete checkpoint of a run of that kind that is sound; None where there is none.

    Those that are damaged or cannot be read are named on standard error. Raises ValueError where no other is left, and
    where one holds files that are not its own; OSError if it cannot be seen which there are.
    """
    defects: list[Defect] = []
    for folder in _complete_folders(run_dir / "checkpoints")[::-1]:
        defect = find_defect(folder)
        if defect is None:
            return _open(folder, kind)
        _pass_over(defect)
        defects.append(defect)
    if defects:
        raise ValueError(_none_is_left(run_dir, defects))
    return None


def agreed_latest_checkpoint(config: ConfigT) -> Checkpoint[ConfigT] | None:
    """`latest_checkpoint` of a run, verified by all ranks together. Raises FatalRunError where it raises ValueError,
    RetryableRunError where another start may be able to read one."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    names = [on_every_rank(lambda: _names_for_all(config.run_dir / "checkpoints") if rank == 0 else [])]
    dist.broadcast_object_list(names)  # as the main rank sees them
    defects: list[Defect] = []
    for name in names[0]:
        folder = config.run_dir / "checkpoints" / name
        found: list[Defect | None] = [None] * world_size
        dist.all_gather_object(found, find_defect(folder, rank, world_size))
        first = gravest(found)
        if first is None:
            return on_every_rank(partial(_open, folder, type(config)))
        on_every_rank(partial(_pass_over, first, is_told=rank == 0))
        defects.append(first)
    if defects:
        is_passing = any(defect.errno in TRANSIENT_ERRNOS for defect in defects)
        raise (RetryableRunError if is_passing else FatalRunError)(_none_is_left(config.run_dir, defects))
    return None


def read_checkpoint(folder: Path, kind: type[ConfigT]) -> Checkpoint[ConfigT]:
    """Verify a checkpoint and say what it holds.

    Raises ValueError, naming the file, where it is damaged or of a run that is not of that kind, and where a file is
    not its own; OSError where it cannot be read.
    """
    if not has_manifest(folder):
        raise ValueError(f"{folder} is no complete checkpoint: it has no {MANIFEST_NAME}")
    defect = find_defect(folder)
    if defect is not None:
        remedy = "move that away" if defect.kind == "foreign" else "give another checkpoint"
        raise ValueError(f"{defect}; {remedy}")
    return _open(folder, kind)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder is named as a complete checkpoint and has a manifest."""
    return _COMPLETE.fullmatch(folder.name) is not None and has_manifest(folder)


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any]) -> None:
    """Put a verified checkpoint of the same topology into the engine. All ranks call it. Raises FatalRunError where its
    files do not hold the state of such an engine."""
    optimizer = engine.optimizer.optimizer
    settings = group_settings(optimizer)
    on_every_rank(lambda: check_own_files(engine, checkpoint.folder))
    engine.checkpoint_engine = BackgroundCheckpointEngine()  # DeepSpeed's own would unpickle
    loaded, _ = engine.load_checkpoint(checkpoint.folder.parent, tag=checkpoint.folder.name)
    assert loaded is not None
    adopt_state(optimizer, settings, checkpoint.num_updates)


def _names_for_all(folder: Path) -> list[str]:
    """The names of complete checkpoints, newest first; warns of those that are not. Raises OSError."""
    for path in _step_folders(folder):
        if not has_manifest(path):
            warn(f"warning: {path} has no {MANIFEST_NAME} and is passed over")
    return [path.name for path in _complete_folders(folder)[::-1]]


def _complete_folders(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. Raises OSError."""
    return [path for path in _step_folders(folder) if has_manifest(path)]


def _step_folders(folder: Path) -> list[Path]:
    """What is named as a checkpoint, oldest first. Raises OSError, in a sentence, if the folder cannot be read: a run
    that took it for empty would begin anew."""
    try:
        names = with_retries(lambda: os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise in_words(
            error, f"{folder} cannot be read ({error.strerror}); make it readable and start again"
        ) from error
    return [folder / name for name in sorted(names) if _COMPLETE.fullmatch(name)]


def _open(folder: Path, kind: type[ConfigT]) -> Checkpoint[ConfigT]:
    """What a verified checkpoint holds. Raises ValueError where it is of another kind of run."""
    manifest = read_manifest(folder)
    if manifest.kind != kind.KIND:
        raise ValueError(f"{folder} is a checkpoint of {manifest.kind}, not of {kind.KIND}; give another folder")
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
    """Raises ValueError, naming the first problem, where it is no config of that kind."""
    try:
        return config_from_json(kind, json.dumps(read_json_object(path)))
    except ValueError as error:
        problem = str(error).removeprefix(f"{path} ")
        raise ValueError(f"{path} is no config of {kind.KIND}: {problem}; give another folder") from error


def _pass_over(defect: Defect, is_told: bool = True) -> None:
    """Say that an older checkpoint is used. Raises ValueError where that would hide what somebody put there."""
    if defect.kind == "foreign":
        raise ValueError(f"{defect}; move it away")
    if is_told:
        warn(f"warning: {defect}; the checkpoint before it is used")


def _none_is_left(run_dir: Path, defects: list[Defect]) -> str:
    unreadable = next((defect for defect in defects if defect.kind == "unreadable"), None)
    if unreadable is None:
        return f"every checkpoint of {run_dir} is damaged; give a new run_dir"
    return f"no checkpoint of {run_dir} can be used: {unreadable}; make it readable, or give a new run_dir"
