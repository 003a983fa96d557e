"""The manifest of a checkpoint: size and SHA-256 of each of its files, and what the checkpoint is.

A folder is sound if it holds the files of its manifest, byte for byte, and nothing else: a tool that looks for files by
pattern would open other files beside them. Everything that is not a regular file, such as a symbolic link, is foreign.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from data_pipeline.files.retries import with_retries
from model.weight_files import read_json_object
from pretrain.checkpoints.background_files import FileDescription

MANIFEST_NAME = "manifest.json"
_CHUNK_BYTES = 1 << 22


def _guard_state(value: dict[str, Any]) -> dict[str, Any]:
    """Return the value. Raises ValueError unless it is a state of StepGuard."""
    counts = [value.get(name) for name in ("num_skipped_steps", "num_consecutive_skips")]
    losses = value.get("recent_losses")
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("has no counts of skipped steps")
    if not isinstance(losses, list) or not all(isinstance(loss, int | float) for loss in losses):
        raise ValueError("has no losses")
    return value


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest."""

    kind: str
    """KIND of the run's config."""
    step: pydantic.NonNegativeInt
    world_size: pydantic.PositiveInt
    memory_config: dict[str, Any]
    data_fingerprints: dict[str, str]
    guard_state: Annotated[dict[str, Any], pydantic.AfterValidator(_guard_state)]
    files: dict[str, FileDescription]


@dataclass(frozen=True)
class Defect:
    """Why a checkpoint is not used."""

    kind: Literal["damaged", "unreadable", "foreign"]
    path: Path
    """The file."""
    reason: str = ""
    errno: int | None = None
    """Number of the error that reading raised."""

    def __str__(self) -> str:
        if self.kind == "foreign":
            return f"{self.path} {self.reason}; a checkpoint that holds more than its own files is not opened"
        if self.kind == "unreadable":
            return f"checkpoint file {self.path} cannot be read ({self.reason})"
        return f"checkpoint file {self.path} is damaged"


def write_manifest(folder: Path, header: dict[str, Any], described: dict[str, FileDescription]) -> None:
    """Write the manifest of a folder's files.

    header: the manifest's other fields. described: files whose checksum is known and that are on disk; the others are
    read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    for path in files:
        name = str(path.relative_to(folder))
        if name not in described:
            sync(path)
            described[name] = _describe(path)
    content = {**header, "files": dict(sorted(described.items()))}
    content["sha256_of_the_rest"] = _digest(content)  # so that a damaged manifest shows too
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=1) + "\n")
    sync(folder / MANIFEST_NAME)
    sync(folder)  # the names; without this a crash may lose a file whose content is on disk


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest. Raises ValueError if it is not as it was written, OSError if it cannot be read."""
    path = folder / MANIFEST_NAME
    content = read_json_object(path)
    if content.pop("sha256_of_the_rest", None) != _digest(content):
        raise ValueError(f"{path} is damaged")
    try:
        return pydantic.TypeAdapter(Manifest).validate_python(content)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path} is damaged: {first_problem(error)}") from error


def first_problem(error: pydantic.ValidationError) -> str:
    """Return the first problem that pydantic found, on one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} {' '.join(first['msg'].split())}"


def has_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest; also True if that cannot be found out."""
    try:
        (folder / MANIFEST_NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def find_defect(folder: Path, part: int = 0, num_parts: int = 1) -> Defect | None:
    """Return why a checkpoint must not be used, or None if it is sound.

    All names are compared with the manifest, and the contents of every num_parts-th file, so that ranks can share the
    reading.
    """
    place = folder
    try:
        entries = with_retries(lambda: {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(folder)})
        place = folder / MANIFEST_NAME
        if MANIFEST_NAME in entries and not stat.S_ISREG(entries[MANIFEST_NAME].st_mode):
            return Defect("foreign", place, _kind(entries[MANIFEST_NAME]))
        files = with_retries(partial(read_manifest, folder)).files
        for name, status in sorted(entries.items()):
            if not stat.S_ISREG(status.st_mode):
                return Defect("foreign", folder / name, _kind(status))
            if name not in files and name != MANIFEST_NAME:
                return Defect("foreign", folder / name, f"is not listed in {MANIFEST_NAME}")
        for name in sorted(files)[part::num_parts]:
            place = folder / name
            is_there = name in entries and entries[name].st_size == files[name].get("num_bytes")
            if not is_there or with_retries(partial(_describe, place)) != files[name]:
                return Defect("damaged", place)
    except (ValueError, FileNotFoundError):
        return Defect("damaged", place)
    except OSError as error:
        return Defect("unreadable", place, error.strerror or str(error), error.errno)
    return None


def _kind(status: os.stat_result) -> str:
    kinds = ((stat.S_ISLNK, "is a symbolic link"), (stat.S_ISDIR, "is a folder"))
    return next((name for is_kind, name in kinds if is_kind(status.st_mode)), "is not a regular file")


def gravest(defects: Iterable[Defect | None]) -> Defect | None:
    """Return the gravest defect that the ranks found: a foreign file before one that is damaged or cannot be read."""
    found = [defect for defect in defects if defect is not None]
    return min(found, key=lambda defect: defect.kind != "foreign", default=None)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> FileDescription:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return {"num_bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def sync(path: Path) -> None:
    """Wait until the content of a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
