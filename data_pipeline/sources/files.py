"""Folders of files, and what the names of files tell."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from data_pipeline.samples.records import cannot_be_read

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_SHORT_FORMS = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar"}


def walk(folder: Path, with_special: bool = False) -> Iterator[str]:
    """The files of a folder at any depth, lazily, as relative paths in the order of these strings.

    Links to folders are followed unless they lead back to a folder above; a link to nothing is a file that cannot be
    read. with_special: pipes, sockets and devices too. Raises OSError if a folder cannot be listed.
    """
    top = os.fspath(folder)
    above = [_Folder(_inode(top), "", _names(top, with_special))]  # no recursion: folders may lie deeper than the stack
    while above:
        name = next(above[-1].names, None)
        if name is None:
            above.pop()
        elif not name.endswith("/"):
            yield above[-1].prefix + name
        else:
            prefix = above[-1].prefix + name
            path = os.path.join(top, prefix)
            inode = _inode(path)
            if all(inode != outer.inode for outer in above):
                above.append(_Folder(inode, prefix, _names(path, with_special)))


class _Folder(NamedTuple):
    """A folder that is being walked through."""

    inode: tuple[int, int]
    prefix: str
    """Its path below the top, with a slash."""
    names: Iterator[str]
    """What is left of its names."""


def _inode(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise cannot_be_read(folder, error) from error
    return status.st_dev, status.st_ino


def _names(folder: str, with_special: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:  # names alone: the entries of a folder of 14 million files fill gigabytes
            return iter(sorted(name for entry in entries if (name := _name(entry, with_special))))
    except OSError as error:
        raise cannot_be_read(folder, error) from error


def _name(entry: os.DirEntry[str], with_special: bool) -> str:
    """Of a folder with a slash, which puts what it holds in its place among the files; of a device or pipe nothing."""
    if entry.is_dir():
        return f"{entry.name}/"
    return entry.name if with_special or entry.is_file() or not os.path.exists(entry) else ""


def form(path: Path | str) -> str:
    """The suffix that says what is inside, without that of the compression: 'a.jsonl.gz' -> '.jsonl'."""
    stem, suffix = os.path.splitext(os.fspath(path).lower())
    return form(stem) if suffix in COMPRESSIONS else _SHORT_FORMS.get(suffix, suffix)


def is_hidden(name: str) -> bool:
    """Is a file, or a folder on its path, hidden? Such are .git, macOS's .DS_Store and ._a.jpg, editors' leftovers."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def require(package: str, purpose: str) -> ModuleType:
    """An optional package. Raises ValueError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} is needed {purpose}; pip install {package.split('.')[0]}") from error
