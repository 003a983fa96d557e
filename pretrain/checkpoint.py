"""Checkpoints that are complete or absent.

    RUN/checkpoints/step_00000300/            DeepSpeed's sharded files, config.json, the text tokenizer
    RUN/checkpoints/step_00000300/manifest.json   size and SHA-256 of each of them

All ranks write into `step_N.partial`; when the manifest is on disk the folder gets its name. What has no manifest does
not exist for a resume. Files are verified against it before DeepSpeed, which unpickles, opens any of them.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import deepspeed
import torch.distributed as dist

from pretrain.run_config import C, RunConfig, config_from_json, config_to_json

MANIFEST_NAME = "manifest.json"
CONFIG_NAME = "config.json"
TEXT_TOKENIZER_NAME = "beit3.spm"
_COMPLETE = re.compile(r"step_\d{8}$")
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Checkpoint(Generic[C]):
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    """Steps that were done when it was saved."""
    world_size: int
    data_fingerprints: dict[str, str]
    config: C

    @property
    def text_tokenizer(self) -> Path:
        return self.folder / TEXT_TOKENIZER_NAME


def save_checkpoint(
    engine: deepspeed.DeepSpeedEngine, config: RunConfig, step: int, data_fingerprints: dict[str, str]
) -> Path:
    """Save the state after `step` steps; keep the newest `keep_checkpoints`. All ranks call it. Returns its folder."""
    folder = config.run_dir / "checkpoints"
    final, partial = folder / f"step_{step:08d}", folder / f"step_{step:08d}.partial"
    is_main_rank = dist.get_rank() == 0
    if is_main_rank:
        for leftover in folder.glob("*.partial"):
            shutil.rmtree(leftover)
    dist.barrier()
    try:
        engine.save_checkpoint(folder, tag=partial.name, save_latest=False)
    except RuntimeError as error:  # torch's answer to a full disk
        raise OSError(f"checkpoint {partial} cannot be written ({error}); free space and start again") from error
    dist.barrier()
    if is_main_rank:
        (partial / CONFIG_NAME).write_text(config_to_json(config))
        if config.data.text_tokenizer is not None:
            shutil.copy(config.data.text_tokenizer, partial / TEXT_TOKENIZER_NAME)
        header = {
            "kind": config.KIND,
            "step": step,
            "world_size": dist.get_world_size(),
            "data_fingerprints": data_fingerprints,
        }
        _write_manifest(partial, header)
        if final.exists():
            _delete(final)
        partial.rename(final)
        _sync(folder)
        for old in _complete_folders(folder)[: -config.keep_checkpoints]:
            _delete(old)
    dist.barrier()
    return final


def latest_checkpoint(run_dir: Path, kind: type[C]) -> Checkpoint[C] | None:
    """The newest complete checkpoint of a run of that kind, verified; None where there is none.

    Raises ValueError, naming the file, where it is damaged or of another kind.
    """
    folders = _complete_folders(run_dir / "checkpoints")
    return read_checkpoint(folders[-1], kind) if folders else None


def agreed_latest_checkpoint(config: C) -> Checkpoint[C] | None:
    """`latest_checkpoint` of a run as the main rank sees it, on every rank. Raises its ValueError on every rank."""
    found: list[Checkpoint[C] | ValueError | None] = [None]
    if dist.get_rank() == 0:
        try:
            found[0] = latest_checkpoint(config.run_dir, type(config))
        except ValueError as error:
            found[0] = error
    dist.broadcast_object_list(found)
    if isinstance(found[0], ValueError):
        raise found[0]
    return found[0]


def read_checkpoint(folder: Path, kind: type[C]) -> Checkpoint[C]:
    """Verify a checkpoint and say what it holds.

    Raises ValueError, naming the file, where it is damaged or of a run that is not of that kind.
    """
    if not (folder / MANIFEST_NAME).is_file():
        raise ValueError(f"{folder} is no complete checkpoint: it has no {MANIFEST_NAME}")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or _describe(folder / name) != expected:
            raise ValueError(
                f"checkpoint file {folder / name} is damaged; delete {folder} to resume from the one before it"
            )
    found = manifest.get("kind", "pretraining")  # manifests of old did not say
    if found != kind.KIND:
        raise ValueError(f"{folder} is a checkpoint of {found}, not of {kind.KIND}; give another folder")
    return Checkpoint(
        folder=folder,
        step=manifest["step"],
        world_size=manifest["world_size"],
        data_fingerprints=manifest["data_fingerprints"],
        config=config_from_json(kind, (folder / CONFIG_NAME).read_text()),
    )


def load_checkpoint(engine: deepspeed.DeepSpeedEngine, checkpoint: Checkpoint[Any]) -> None:
    """Put a verified checkpoint's weights and optimizer state into the engine. All ranks call it.

    Raises ValueError for another world size.
    """
    if checkpoint.world_size != dist.get_world_size():
        raise ValueError(
            f"{checkpoint.folder} was saved by {checkpoint.world_size} ranks; "
            f"resume on as many, not {dist.get_world_size()}"
        )
    loaded, _ = engine.load_checkpoint(checkpoint.folder.parent, tag=checkpoint.folder.name)
    assert loaded is not None


def _complete_folders(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step_*") if _COMPLETE.match(p.name) and (p / MANIFEST_NAME).is_file())


def _delete(folder: Path) -> None:
    """Take away the name first: a kill halfway must not leave what looks complete."""
    retired = folder.with_name(f"{folder.name}.retired.partial")
    folder.rename(retired)
    shutil.rmtree(retired)


def _write_manifest(folder: Path, header: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    content = {**header, "files": {str(path.relative_to(folder)): _describe(path) for path in files}}
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=1) + "\n")
    _sync(folder / MANIFEST_NAME)
    _sync(folder)


def _describe(path: Path) -> dict[str, object]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return {"num_bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _sync(path: Path) -> None:
    """Wait until a file's or folder's content is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
