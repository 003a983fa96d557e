"""Reading members by offset from shards that change, shrink, vanish or fail."""

import errno
import os
from pathlib import Path

import pytest

from data_pipeline.files import retries
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import GOOD, SIZE, pair_dataset
from tests.support.tiny_run import TinyData


def test_bytes_that_differ_from_the_index_are_skipped_counted_and_named(good_pairs: Path, tiny_data: TinyData) -> None:
    content = bytearray((good_pairs / "0.tar").read_bytes())
    content[int(read_index(good_pairs).records[1]["image"]["offset"]) + 5] ^= 1
    (good_pairs / "0.tar").write_bytes(content)
    batch = pair_dataset(good_pairs, tiny_data)[0]
    assert [str(bad) for bad in batch.bad_samples] == [f"{good_pairs / '0.tar'}:01: bytes differ from the index"]
    assert sorted(batch.keys) == ["00", "02", "02", "03", "10", "11", "12", "13"]


def test_a_member_larger_than_the_limit_is_skipped(good_pairs: Path, tiny_data: TinyData) -> None:
    config = DataConfig(
        (), (str(good_pairs),), (), tiny_data.folder / "text_tokenizer.spm", num_lanes=1, max_member_bytes=20
    )
    batch = StepDataset(config, SamplesPerStep(0, 1, 0), SIZE, seed=0)[0]
    assert {bad.reason for bad in batch.bad_samples} == {f"member exceeds max_member_bytes ({len(GOOD)} > 20)"}
    assert "without a good sample" in batch.failure


def test_a_shard_of_another_size_than_indexed_is_refused(good_pairs: Path, tiny_data: TinyData) -> None:
    opened = pair_dataset(good_pairs, tiny_data)
    os.truncate(good_pairs / "1.tar", 2048)
    with pytest.raises(ValueError, match=r"1.tar is missing or not the one that was indexed; restore it"):
        pair_dataset(good_pairs, tiny_data)
    assert f"shard {good_pairs / '1.tar'} is not the one that was indexed" in opened[0].failure  # found in mid-run


def test_a_shard_that_vanishes_in_mid_run_is_reported_with_its_name(good_pairs: Path, tiny_data: TinyData) -> None:
    opened = pair_dataset(good_pairs, tiny_data)
    (good_pairs / "1.tar").unlink()
    batch = opened[0]
    assert str(good_pairs / "1.tar") in batch.failure and "No such file" in batch.failure and len(batch.images) == 0


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.001)


def test_a_stale_handle_of_a_shard_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(ShardOptions("pair", "scenes:4", tmp_path, samples_per_shard=2))
    expected = SampleReader(read_index(tmp_path), 1 << 20).image_bytes(3)
    reader = SampleReader(read_index(tmp_path), 1 << 20)
    reader.image_bytes(3)
    failures = [errno.ESTALE, errno.EIO]
    known = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        if failures:
            raise OSError(failures.pop(), "not now")
        return known(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    opened: list[str] = []
    known_open = os.open

    def open_again(path: str, *flags: int) -> int:
        opened.append(path)
        return known_open(path, *flags)

    monkeypatch.setattr(os, "open", open_again)
    assert reader.image_bytes(3) == expected
    assert failures == [] and len(opened) == 2


def test_a_reader_that_is_no_longer_used_leaves_no_shard_open(good_pairs: Path) -> None:
    reader = SampleReader(read_index(good_pairs), 1 << 20)
    assert reader.image_bytes(0) == GOOD
    descriptor = reader.open_shard(0)
    assert os.path.samestat(os.fstat(descriptor), (good_pairs / "0.tar").stat())
    del reader
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
