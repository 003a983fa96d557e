"""Walking folders, and the forms of files by their names."""

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
    """Yield the files of a folder at any depth, lazily, as relative paths in string order.

    Links to folders are followed unless they lead back to a parent; a dangling link is yielded as a file that cannot be
    read. with_special: also yield pipes, sockets and devices. Raises OSError if a folder cannot be listed.
    """
    top = os.fspath(folder)
    # no recursion: folders may be nested deeper than Python's stack
    above = [_Folder(_inode(top), "", _names(top, with_special))]
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
    """A folder during the walk."""

    inode: tuple[int, int]
    prefix: str
    """Path below the top, with a trailing slash."""
    names: Iterator[str]
    """The remaining names."""


def _inode(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise cannot_be_read(folder, error) from error
    return status.st_dev, status.st_ino


def _names(folder: str, with_special: bool) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:  # names alone: the DirEntry objects of 14 million files take gigabytes
            return iter(sorted(name for entry in entries if (name := _name(entry, with_special))))
    except OSError as error:
        raise cannot_be_read(folder, error) from error


def _name(entry: os.DirEntry[str], with_special: bool) -> str:
    """Return the name, for a folder with a slash, which sorts its files into place; "" for a device or pipe."""
    if entry.is_dir():
        return f"{entry.name}/"
    return entry.name if with_special or entry.is_file() or not os.path.exists(entry) else ""


def form(path: Path | str) -> str:
    """Return the lowercase suffix without that of a compression: 'a.jsonl.gz' -> '.jsonl'."""
    stem, suffix = os.path.splitext(os.fspath(path).lower())
    return form(stem) if suffix in COMPRESSIONS else _SHORT_FORMS.get(suffix, suffix)


def is_hidden(name: str) -> bool:
    """Return whether a file or a folder on its path is hidden, such as .git, or macOS's .DS_Store and ._a.jpg."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package. Raises ValueError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{package} is needed {purpose}; pip install {package.split('.')[0]}") from error
