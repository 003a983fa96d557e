"""Folders that many tests read: made once for all test processes and changed by none."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def shared_folder(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a folder that `make` has filled, in this test process or in another of the same pytest-xdist run.

    Fails at the end if anything in the folder was added, removed or written meanwhile: a test that changes a shared
    folder must copy it.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers' folders are subfolders of the run's
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
            folder.mkdir()
            make(folder)
            done.touch()
    before = contents(folder)
    yield folder
    assert contents(folder) == before, f"a test has changed the shared folder {folder}; let it copy the folder"


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size in bytes and time of the last change in nanoseconds of every file and folder, by relative path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (0 if path.is_dir() else status.st_size, status.st_mtime_ns)
    return found
