"""Malicious files with a harmless payload: it creates a folder, which shows that code ran."""

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.checkpoints.manifest import MANIFEST_NAME, write_manifest


class Payload:
    """A payload that creates a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _sound(path: Path) -> dict[str, bytes]:
    torch.save({"weight": torch.zeros(1000)}, path)
    return _members(path)


def _renamed_tar(path: Path, marker: Path) -> None:
    """Write the oldest format of torch.save: pickles in a tar."""
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Payload(marker), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _two_pickles(path: Path, marker: Path) -> None:
    """Write two members of the same name; readers of archives differ in which one they find."""
    members = _sound(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        name = next(name for name in members if name.endswith("data.pkl"))
        archive.writestr(name.replace("data.pkl", "DATA.PKL"), pickle.dumps(Payload(marker), protocol=2))


def _newer_protocol(path: Path, marker: Path) -> None:
    members = _sound(path)
    name = next(name for name in members if name.endswith("data.pkl"))
    _archive(path, {**members, name: pickle.dumps(Payload(marker), protocol=4)})


def _object_array(path: Path, marker: Path) -> None:
    np.savez(path.with_suffix(".npz"), np.array([Payload(marker)], dtype=object))
    path.with_suffix(".npz").rename(path)


def _bytes_by_number(path: Path, marker: Path) -> None:
    """Write a pickle of a few bytes that requests a terabyte by a function that torch allows."""
    members = _sound(path)
    name = next(name for name in members if name.endswith("data.pkl"))
    _archive(path, {**members, name: b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R."})


def _expanding(path: Path, marker: Path) -> None:
    _archive(path, _sound(path), zipfile.ZIP_DEFLATED)


def _script(path: Path, marker: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


ATTACKS: dict[str, Callable[[Path, Path], object]] = {
    "archive": lambda path, marker: torch.save({"weight": Payload(marker)}, path),
    "archive, nested": lambda path, marker: torch.save({"module": [{"a": (torch.zeros(2), Payload(marker))}]}, path),
    "before torch 1.6": lambda path, marker: torch.save([Payload(marker)], path, _use_new_zipfile_serialization=False),
    "bare pickle": lambda path, marker: path.write_bytes(pickle.dumps(Payload(marker))),
    "pickle of the first protocol": lambda path, marker: path.write_bytes(pickle.dumps(Payload(marker), 0)),
    "newer protocol": _newer_protocol,
    "tar": _renamed_tar,
    "two pickles": _two_pickles,
    "numpy objects": _object_array,
    "bytes by number": _bytes_by_number,
    "expanding": _expanding,
    "TorchScript": _script,
}
"""Functions of a path and a marker; each writes a file that runs code or takes all memory if opened carelessly."""


def seal(folder: Path) -> None:
    """Rewrite the manifest of a checkpoint, so that it is consistent with the files in the folder."""
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    header = {name: value for name, value in manifest.items() if name not in ("files", "sha256_of_the_rest")}
    write_manifest(folder, header, {})


def copy_of_run(run_dir: Path, copy: Path) -> Path:
    """Copy a run with one checkpoint; return the copy's checkpoint folder."""
    shutil.copytree(run_dir, copy)
    (folder,) = (copy / "checkpoints").glob("step_*")
    return folder
