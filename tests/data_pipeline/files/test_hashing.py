"""Checksums of files by path and by descriptor."""

import hashlib
import os
from pathlib import Path

from data_pipeline.files.hashing import descriptor_sha256, file_sha256


def test_a_file_has_one_checksum_by_path_and_by_descriptor(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as file:
        file.seek(1000)  # from wherever the descriptor stands
        assert descriptor_sha256(file.fileno()) == hashlib.sha256(content).hexdigest() == file_sha256(tmp_path / "a")
        assert os.fstat(file.fileno()).st_size == len(content)  # still open


def test_a_replaced_file_is_hashed_as_it_was_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as file:
        (tmp_path / "b").write_bytes(b"new")
        (tmp_path / "b").rename(tmp_path / "a")
        assert descriptor_sha256(file.fileno()) != file_sha256(tmp_path / "a")
