"""Fingerprints change with the file, and files that cannot be read are reported."""

import hashlib
from pathlib import Path

import pytest

from pretrain.checkpoints.fingerprints import file_fingerprint


def test_a_fingerprint_is_the_beginning_of_the_sha256(tmp_path: Path) -> None:
    path = tmp_path / "words.spm"
    path.write_bytes(b"words")
    assert file_fingerprint(path) == hashlib.sha256(b"words").hexdigest()[:16]
    assert file_fingerprint(None) == "no file"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"words.spm cannot be read \(No such file or directory\); make it readable"):
        file_fingerprint(tmp_path / "words.spm")
