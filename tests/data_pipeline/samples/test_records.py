"""Records: their keys, and what is read as an image."""

import os
from pathlib import Path

import pytest

from data_pipeline.samples.records import MAX_IMAGE_BYTES, Record, TarMember, read_image
from data_pipeline.samples.sample import BadSampleError
from data_pipeline.sources.readers import SourceOptions, read_records


def images(source: Path) -> list[Record]:
    return list(read_records("image", str(source), SourceOptions()))


def test_a_file_that_is_not_regular_or_too_large_is_not_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", MAX_IMAGE_BYTES + 1)
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(BadSampleError, match="not a regular file"):
            read_image(path)
    for location in (tmp_path / "large.jpg", TarMember(tmp_path / "large.jpg", 0, MAX_IMAGE_BYTES + 1)):
        with pytest.raises(BadSampleError, match="larger than 256 MB"):
            read_image(location)
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    for name in ("circle.jpg", "nul\0.jpg", "half\ud83d.jpg", "x" * 300):
        with pytest.raises(BadSampleError, match="image path is not valid"):
            read_image(tmp_path / name)


def test_a_key_can_be_encoded_whatever_the_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    (record,) = images(tmp_path)
    assert record.key.encode() == b"caf_"
    assert Record(".jpg").key == "_"  # WebDataset would not see a member named .jpg
