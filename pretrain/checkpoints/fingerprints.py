"""Fingerprints of the files that define a run, as checkpoints record them."""

from pathlib import Path

from data_pipeline.files.hashing import file_sha256
from pretrain.survival.agreement import in_words


def file_fingerprint(path: Path | None) -> str:
    """Return the first 16 digits of a file's SHA-256, "no file" for None. Raises OSError."""
    if path is None:
        return "no file"
    try:
        return file_sha256(path)[:16]
    except OSError as error:
        raise in_words(error, f"{path} cannot be read ({error.strerror}); make it readable, or give another") from error
