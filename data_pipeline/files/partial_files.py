"""Files that are complete or absent: written under another name, then renamed."""

import os
from pathlib import Path


def own_partial(path: Path) -> Path:
    """Return where this process writes a file before it renames it: no two processes share the name."""
    return path.with_name(f"{path.name}.{os.uname().nodename}-{os.getpid()}.partial")


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small file so that no reader sees a part of it. Raises OSError."""
    partial = own_partial(path)
    partial.write_text(text)
    partial.rename(path)
