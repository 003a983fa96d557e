"""Checks of disks, with injected sizes. No time at all."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.shards.index import INDEX_NAME
from pretrain.config.pretraining import PretrainConfig
from pretrain.diagnosis import storage
from pretrain.diagnosis.demands import Demands
from pretrain.recipes import RECIPES

DEMANDS = Demands("laptop", checkpoint=3_000_000, num_checkpoints=4)


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=1))


def laptop(images: tuple[str, ...]) -> PretrainConfig:
    config = RECIPES["laptop"]()
    return replace(config, data=replace(config.data, images=images, pairs=images, texts=images), texts_per_step=0)


def test_free_space_is_compared_with_the_checkpoints_that_are_not_there_yet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk(monkeypatch, 10_000_000)
    (found,) = storage.disk_space(tmp_path / "runs" / "laptop", DEMANDS)
    assert found.level == "error" and f"at {tmp_path};" in found.text and "4 checkpoints of 3.0 MB" in found.text
    assert found.remedy.startswith("free 2.0 MB, ")
    checkpoint = tmp_path / "runs" / "laptop" / "checkpoints" / "step_00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(3_000_000))
    (found,) = storage.disk_space(tmp_path / "runs" / "laptop", DEMANDS)
    assert found.level == "ok" and "3.0 MB are there" in found.text


def test_a_run_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (found,) = storage.disk_space(tmp_path, DEMANDS)
    assert found.level == "error" and "cannot be written" in found.text


def test_the_cache_needs_space_only_if_a_source_is_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 10**9)
    (found,) = storage.cache_space(laptop(("data/images",)))
    assert found.text == "not used: no source is remote"
    (found,) = storage.cache_space(laptop(("s3://bucket/images",)))
    assert found.level == "warning" and "--data.cache-bytes 9" in found.remedy


def test_reading_is_measured_and_slow_reading_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(10_000_000))
    assert storage.measured([tmp_path / "0.tar"])[0] == 10_000_000
    monkeypatch.setattr(storage, "READ_BYTES", 4_000_000)
    assert storage.measured([tmp_path / "0.tar"])[0] == 4_000_000
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / INDEX_NAME).write_bytes(b"")
    sources = (str(tmp_path), "https://host/images", str(tmp_path / "index"), str(tmp_path / "missing"))
    monkeypatch.setattr(storage, "measured", lambda shards: (8_000_000, 0.01))
    found = [*storage.read_speed(laptop(sources))]
    # of images and of pairs, there are no texts; that shards are missing, the check of the data says
    assert [one.level for one in found] == ["ok"] * 6
    assert "remote" in found[1].text and "not measured" in found[2].text
    monkeypatch.setattr(storage, "measured", lambda shards: (8_000_000, 2.0))
    assert next(iter(storage.read_speed(laptop((str(tmp_path),))))).level == "warning"
