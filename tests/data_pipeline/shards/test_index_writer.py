"""An index merged from scans: of all parts, with and without exact copies, on a full disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.files.partial_files import own_partial
from data_pipeline.index_shards import scan_one
from data_pipeline.shards.index import read_index
from data_pipeline.shards.scan import scan_path
from data_pipeline.shards.writer import MAX_UNREADABLE
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import (
    ALL,
    JPEG,
    image_options,
    index_and_report,
    indexed,
    keys,
    write_pairs,
    write_tar,
    written,
)


def test_one_of_several_exact_copies_is_kept_across_shards_and_parts(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, {f"{i}.png": f"number {i}" for i in range(8)})
    for copy, original in ((5, 1), (7, 1), (6, 2)):
        (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{original}.png").read_bytes())
    index = written("image", source, tmp_path / "images", samples_per_shard=2, keep=ALL, deduplicate=True)
    assert keys(index) == ["0", "1", "2", "3", "4"]
    pairs = written("pair", source, tmp_path / "pairs", samples_per_shard=2, keep=ALL, deduplicate=True)
    assert pairs.num_samples == 8  # other captions, other samples
    options = ShardOptions("image", str(source), tmp_path / "parts", 2, keep=ALL, deduplicate=True, num_parts=2)
    reports = [write_shards(replace(options, part=part)) for part in range(2)]
    assert keys(read_index(tmp_path / "parts")) == keys(index)
    assert reports[1].skipped == {"exact copy of another sample": 3}
    index_and_report("image", tmp_path / "parts")
    assert read_index(tmp_path / "parts").num_samples == 8


def test_the_parts_of_a_job_array_merge_into_the_index_that_one_process_writes(tmp_path: Path) -> None:
    whole = written("pair", "scenes:23", tmp_path / "whole", samples_per_shard=4)
    options = [ShardOptions("pair", "scenes:23", tmp_path / "parts", 4, part=i, num_parts=3) for i in range(3)]
    for part in (2, 0):
        write_shards(options[part])
    with pytest.raises(ValueError, match="part 1 is missing"):
        index_and_report("pair", tmp_path / "parts")
    assert not (tmp_path / "parts" / "index.json").exists()
    write_shards(options[1])
    assert read_index(tmp_path / "parts").fingerprint == whole.fingerprint
    with pytest.raises(ValueError, match="was started with different settings"):
        write_shards(replace(options[1], num_parts=4))


def test_exact_copies_are_counted_even_if_they_are_kept(images: Path) -> None:
    (images / "copy.png").write_bytes((images / "01.png").read_bytes())
    report = write_shards(image_options(images))
    assert (report.num_kept, report.num_copies) == (MAX_UNREADABLE + 6, 1)
    report = write_shards(image_options(images, deduplicate=True))
    assert (report.num_kept, report.num_copies) == (MAX_UNREADABLE + 5, 0)
    assert report.skipped == {"exact copy of another sample": 1}


def test_a_copy_that_is_left_out_takes_its_members_along(tmp_path: Path) -> None:
    members = [(f"{key}.{extension}", JPEG) for key in "ab" for extension in ("jpg", "txt", "json")]
    report = indexed("pair", write_tar(tmp_path / "0.tar", members).parent, deduplicate=True)
    assert report.skipped == {"exact copy of another sample": 1}
    assert (report.num_kept, report.num_members, report.num_skipped_members) == (1, 6, 3)


def test_a_full_disk_is_reported_as_such_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", [("a.txt", b"one")])
    (tmp_path / ".index").mkdir()
    own_partial(scan_path(tmp_path, "0.tar")).symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"\.index/0.npz cannot be written \(No space left on device\); free space"):
        scan_one(str(tmp_path), tmp_path, "text", "", "0.tar")
    indexed("text", tmp_path)
    before = (tmp_path / "index.json").read_bytes()
    write_tar(shard, [("a.txt", b"one"), ("b.txt", b"two")])
    for name in ("samples.npy", "index.json"):
        own_partial(tmp_path / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); free space and start again"):
            indexed("text", tmp_path)
        assert (tmp_path / "index.json").read_bytes() == before and not list(tmp_path.rglob("*.partial"))
