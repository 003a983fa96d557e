"""What a text tokenizer is trained on."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.files import retries
from data_pipeline.samples.records import ImageLocation, Record, read_image
from data_pipeline.shards import writer as shard_writer
from data_pipeline.shards.writer import MAX_UNREADABLE, is_in_split


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(MAX_UNREADABLE + 5):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number:02d}.png")
    return folder


def break_disk(monkeypatch: pytest.MonkeyPatch, names: set[str], number: int = errno.EIO) -> None:
    """Reading these files fails, as on a disk with a bad sector."""

    def read(location: ImageLocation) -> bytes:
        if isinstance(location, Path) and location.name in names:
            raise OSError(number, os.strerror(number))
        return read_image(location)

    monkeypatch.setattr(shard_writer, "read_image", read)
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0)


def test_the_caption_of_an_image_that_cannot_be_read_trains_no_tokenizer(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, {"03.png"})
    sound = Record("a", images / "04.png", "a caption")
    unreadable = replace(sound, image=images / "03.png")
    assert [is_in_split(record, 1e-9, "train") for record in (sound, unreadable)] == [True, False]
