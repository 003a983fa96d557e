"""Checkpoints that are complete or absent.

    RUN/checkpoints/step_00000300/                DeepSpeed's sharded files, config.json, the job's own files
    RUN/checkpoints/step_00000300/manifest.json   size and SHA-256 of each of them, versions, fingerprints of the data
    RUN/checkpoints/best                          names the best one by a figure of the evaluations, if one is set

All ranks write into `step_N.partial`; once the manifest is on disk the folder gets its name. reader.py finds them
again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist

from data_pipeline.files.retries import written_with_retries
from pretrain.checkpoints.background_files import BackgroundCheckpointEngine, FileDescription
from pretrain.checkpoints.best import EVALUATIONS_NAME, update_best
from pretrain.checkpoints.manifest import read_manifest, sync, write_manifest
from pretrain.checkpoints.reader import CONFIG_NAME, complete_folders
from pretrain.config.run_config import RunConfig, config_to_json
from pretrain.config.schedule import decay_start
from pretrain.survival.agreement import RunError, in_words, on_every_rank, on_main_rank

_PUT_BACK = "put the run folder back as it was and start again, or give a new run_dir"


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
        """memory_config: contents of the run's ds_configs/*.json; extra_files: the job's, by name. Raises OSError."""
        self.engine, self.config, self.data_fingerprints = engine, config, data_fingerprints
        self.memory_config = memory_config
        self.extra_files = extra_files
        self.folder = config.run_dir / "checkpoints"
        self.files = BackgroundCheckpointEngine()
        self.step: int | None = None
        """The number of steps before the checkpoint under way; None if none is."""
        self.guard_state: dict[str, Any] = {}
        self.evaluations: list[dict[str, Any]] = []
        self._num_updates: dict[Path, int] = {}
        self._deleting = ThreadPoolExecutor(1, "delete checkpoints")
        if dist.get_rank() == 0:
            for leftover in self.folder.glob("*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
        engine.checkpoint_engine = self.files
        # copies zero_to_fp32.py into the checkpoint, and would fail on one rank alone; pretrain.convert does its work
        engine._copy_recovery_script = lambda _: None

    @property
    def is_written(self) -> bool:
        """Whether this rank has written its files of a checkpoint that is not finished."""
        return self.step is not None and self.files.is_written

    def begin(self, step: int, guard_state: dict[str, Any], evaluations: Sequence[dict[str, Any]] = ()) -> None:
        """Take a snapshot of the state after `step` steps. Raises FatalRunError if the folder cannot be created.

        evaluations: those of this state, which the checkpoint holds too; on the main rank.
        """
        assert self.step is None
        folder = self._partial(step)
        on_main_rank(self._make, folder)
        self.step, self.guard_state, self.evaluations = step, guard_state, list(evaluations)
        self.files.begin(folder)
        self.engine.save_checkpoint(self.folder, tag=folder.name, save_latest=False)

    def finish(self) -> Path | None:
        """Wait until all ranks have written, and complete the checkpoint; return its folder, None if none is under way.

        Raises FatalRunError if any rank could not write: the checkpoint before it stays.
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
        # each rank knows the checksums of its own files, added up while it wrote them: nothing is read again
        per_rank: list[dict[str, FileDescription]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(per_rank, own)
        described = {name: description for files in per_rank for name, description in files.items()}
        on_main_rank(self._complete, step, described)
        return self.folder / f"step_{step:08d}"

    def _partial(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}.partial"

    def _make(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir()  # without parents: a run folder that was moved away must not be started anew
        except OSError as error:
            raise in_words(error, f"{folder} cannot be created ({error.strerror}); {_PUT_BACK}") from error

    def _complete(self, step: int, described: dict[str, FileDescription]) -> None:
        """Write the files that are not DeepSpeed's, then the manifest, give the folder its name, and delete outdated
        checkpoints. Main rank."""
        folder, final = self._partial(step), self.folder / f"step_{step:08d}"

        def write() -> None:
            (folder / CONFIG_NAME).write_text(config_to_json(self.config))
            for name, content in self.extra_files.items():
                (folder / name).write_bytes(content)
            if self.evaluations:
                (folder / EVALUATIONS_NAME).write_text("".join(json.dumps(line) + "\n" for line in self.evaluations))
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
        best = written_with_retries(lambda: update_best(final, self.evaluations, self.config.evaluation), self.folder)
        # later ones were skipped as damaged when the run started: they must not count as the newest
        folders = [other for other in complete_folders(self.folder) if other.name <= final.name]
        for old in outdated({folder: self._updates(folder) for folder in folders}, self.config):
            if old != best:
                self._delete(old)

    def _updates(self, folder: Path) -> int | None:
        """Return the number of steps applied before a checkpoint; None if its manifest cannot be read."""
        if folder not in self._num_updates:
            with suppress(OSError, ValueError, LookupError):
                manifest = read_manifest(folder)
                self._num_updates[folder] = manifest.step - int(manifest.guard_state["num_skipped_steps"])
        return self._num_updates.get(folder)

    def _delete(self, folder: Path) -> None:
        """Rename a checkpoint and delete it in the background: a kill halfway must not leave what looks complete."""
        retired = folder.with_name(f"{folder.name}.retired.partial")
        folder.rename(retired)
        self._deleting.submit(shutil.rmtree, retired, ignore_errors=True)

    def close(self) -> None:
        """Wait, after the last checkpoint, until the outdated ones are deleted."""
        self._deleting.shutdown()


def outdated(num_updates: Mapping[Path, int | None], config: RunConfig) -> list[Path]:
    """Return the checkpoints that are not kept.

    num_updates: complete checkpoints, oldest first, with the number of steps applied before each; None if unknown. Kept
    are the newest, every Nth step, that at which a decay begins, and the newest of progress: those before which a step
    was applied since the checkpoint before. So skipped steps, which change no weight, do not displace what a run could
    go back to.
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
        and not (every and _step_of(folder) % every == 0)
        and _step_of(folder) != decay_start(config)
    ]


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def check_there(folder: Path) -> None:
    """Raise OSError if a checkpoint that was completed lacks a file or a part of one. Reads no contents."""
    try:
        files = read_manifest(folder).files
        lacking = next((name for name in files if (folder / name).stat().st_size != files[name]["num_bytes"]), None)
    except (OSError, ValueError) as error:
        sentence = f"{folder} was moved, deleted or damaged after it was saved ({error}); {_PUT_BACK}"
        raise in_words(error, sentence) from error
    if lacking is not None:
        raise OSError(f"{folder / lacking} was damaged after it was saved; {_PUT_BACK}")
