"""Files that cannot be read, even by root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """Make a file or folder unreadable within the block; root becomes another user, who can read the folders above."""
    is_root, mode = os.geteuid() == 0, path.stat().st_mode
    parents = [parent for parent in path.parents if len(parent.parts) > 2] if is_root else []
    modes = [parent.stat().st_mode for parent in parents]
    for parent in parents:
        parent.chmod(0o755)
    path.chmod(0)
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(mode)
        for parent, before in zip(parents, modes, strict=True):
            parent.chmod(before)
