"""Members of a tar as samples: grouping and keys."""

from pathlib import Path

from tests.support.shard_files import index_and_report, keys, write_tar


def test_members_are_grouped_as_webdataset_groups_them(tmp_path: Path) -> None:
    names = ["v1.0/a.jpg", "v1.0/a.txt", "v1.0/b.seg.jpg", "v1.0/b.txt", "c.txt", "c.JPG"]
    write_tar(tmp_path / "0.tar", [(name, b"\xff\xd8\xff") for name in names])
    assert keys(index_and_report("pair", tmp_path)[0]) == ["v1.0/a", "c"]


def test_a_key_of_any_length_leaves_the_index_small(tmp_path: Path) -> None:
    names = ["x" * 5000 + "1", "x" * 5000 + "2"]
    write_tar(tmp_path / "0.tar", [(f"{name}.txt", b"abc") for name in names])
    index = index_and_report("text", tmp_path)[0]
    assert len(set(keys(index))) == 2 and index.records.dtype["key"].itemsize == 200
