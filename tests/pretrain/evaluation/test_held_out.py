"""Held-out samples that are damaged. CPU, seconds."""

import io
import tarfile
from pathlib import Path

import pytest

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig
from pretrain.evaluation.held_out import read_held_out
from tests.support.shard_files import GOOD


def test_keys_of_bad_samples_cannot_move_the_cursor(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key, content in (("good", GOOD), ("b\x1b[2Jad", GOOD[:-60])):
            member = tarfile.TarInfo(f"{key}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    index_shards(IndexOptions("image", str(tmp_path), num_workers=1))
    capfd.readouterr()
    images, _ = read_held_out(tmp_path, DataConfig(), 16, 10)
    said = capfd.readouterr().err
    assert len(images) == 1 and "skipped" in said and "\x1b" not in said
    with pytest.raises(ValueError, match="holds shards of kind 'image', not 'pair'; give the right folder"):
        read_held_out(tmp_path, DataConfig(), 16, 10, ("pair",))
