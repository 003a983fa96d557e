"""The texts that a text tokenizer is trained on."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.shards.writer import is_in_split
from tests.support.shard_files import break_disk


def test_the_caption_of_an_image_that_cannot_be_read_trains_no_tokenizer(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_disk(monkeypatch, {"03.png"})
    sound = Record("a", images / "04.png", "a caption")
    unreadable = replace(sound, image=images / "03.png")
    assert [is_in_split(record, 1e-9, "train") for record in (sound, unreadable)] == [True, False]
