"""SHA-256 of files, as lowercase hex digits."""

import hashlib
import os
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def descriptor_sha256(descriptor: int) -> str:
    """Return the SHA-256 of the file that a descriptor is open on, from its first byte.

    For a file that could be replaced under its name. Moves the descriptor's offset. Raises OSError.
    """
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
