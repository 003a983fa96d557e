"""Folders of any files: those of the kind are read, each of the others is counted. CPU, seconds."""

import io
import json
import lzma
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.samples.records import Record, read_image
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.readers import SourceOptions, read_records


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def problems(found: list[Record]) -> dict[str, str]:
    return {record.name: record.problem.partition(" (")[0] for record in found if record.problem}


def parquet(path: Path, **columns: object) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


STEMS = st.sampled_from(["a", "b", ".a", "._b", "a.b", "A", "\xe4", os.fsdecode(b"\xff"), "a b"])


SUFFIXES = st.sampled_from(
    ["", ".jpg", ".JPG", ".jpeg", ".png", ".gif", ".txt", ".TXT", ".json", ".md", ".avif", ".npy"]
)


NAMES = st.tuples(st.sampled_from(["", "n01/", "n01/deep/", ".git/", "b.jpg.d/"]), STEMS, SUFFIXES).map("".join)


@settings(max_examples=150)
@given(names=st.sets(NAMES, max_size=12))
def test_every_file_of_a_folder_is_read_or_counted(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, dict.fromkeys(names, b"content"))
        images = records("image", folder)
        assert sorted(record.name for record in images) == sorted(names)
        for record in images:
            assert (record.image is None) == (record.problem is not None) and record.place == str(folder / record.name)
        pairs = _pairs_or_none(folder)
        if good := [record for record in pairs if record.problem is None]:
            captions = {str(Path(record.name).with_suffix("")) for record in good}
            assert len(pairs) + len(captions) == len(names)
            assert all(record.text == "content" for record in good)
        write(folder, {"z.txt": b"a document"})
        texts = {record.name.removesuffix("/00000000") for record in records("text", folder)}
        assert texts == {*names, "z.txt"}


def _pairs_or_none(folder: Path) -> list[Record]:
    try:
        return records("pair", folder)
    except ValueError:
        return []


def test_pipes_and_links_to_nothing_are_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    write(tmp_path, {"c.txt": b"a document", "d/e.jpg": b"image"})
    for name in ("d/a.tar", "d/a.parquet", "d/a.jpg"):
        os.mkfifo(tmp_path / name)
    assert problems(records("image", tmp_path / "d")) == {
        "a.tar": "file is not a regular file",
        "a.parquet": "file is not an image by its name",
    }
    parquet(tmp_path / "d" / "b.parquet", text=["one"])
    assert problems(records("text", tmp_path / "d"))["a.parquet"] == "file is not a regular file"
    shutil.rmtree(tmp_path / "d")
    assert problems(records("text", tmp_path)) == {
        "a.txt": "file is not a regular file",
        "b.txt": "file is a dangling link",
    }


def test_img2datasets_parquet_with_its_own_names_of_columns(tmp_path: Path) -> None:
    columns = {
        "url": ["http://a/0.jpg"] * 3,
        "key": ["0", "1", "2"],
        "status": ["success", "success", "failed_to_download"],
    }
    parquet(tmp_path / "00000.parquet", jpg=[b"0", b"1", None], caption=["zero", "one", "two"], **columns)
    parquet(tmp_path / "00001.parquet", jpg=[b"0", b"1", None], txt=["zero", "one", "two"], **columns)
    write(tmp_path, {"00000_stats.json": b"{}"})
    found = records("pair", tmp_path)
    assert [(record.image, record.text) for record in found if record.problem is None] == [
        (image, text) for _ in range(2) for image, text in ((b"0", "zero"), (b"1", "one"), (None, "two"))
    ]
    assert problems(found) == {"00000_stats.json": "file is not a table by its name"}


def test_a_table_of_something_else_among_others_is_counted_and_one_alone_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", key=["0"])
    parquet(tmp_path / "b.parquet", text=["one"])
    assert problems(records("text", tmp_path)) == {"a.parquet": "file lacks a column"}
    (tmp_path / "b.parquet").unlink()
    write(tmp_path, {"LICENSE": b"a text"})
    kinds: tuple[Kind, ...] = ("image", "pair", "text")
    for kind in kinds:
        with pytest.raises(ValueError, match="a.parquet has no column"):
            records(kind, tmp_path)


def test_imagenet_21k_with_a_tar_for_each_class(tmp_path: Path) -> None:
    for wnid in ("n00004475", "n00005787"):
        write(tmp_path, {f"{wnid}.tar": tar_of({f"{wnid}_1.JPEG": b"image"})})
    write(tmp_path, {"._n00004475.tar": b"", "n3.tar": b"<html>404</html>"})
    found = records("image", tmp_path)
    assert [(record.metadata, record.name) for record in found if record.problem is None] == [
        ({"class": wnid}, f"{wnid}.tar/{wnid}_1.JPEG") for wnid in ("n00004475", "n00005787")
    ]
    assert problems(found) == {"._n00004475.tar": "file is hidden", "n3.tar": "file is not a readable uncompressed tar"}


def test_openwebtext_is_a_tar_of_compressed_tars(tmp_path: Path) -> None:
    inner = tar_of({"0001-a.txt": b"first document\n\nstill first", "0002-b.txt": b"second", "x.npy": b"\0"})
    write(tmp_path, {"urlsf_subset00-1_data.xz": lzma.compress(inner), ".DS_Store": b"\0\0\0\1Bud1", "._x.txt": b"\0"})
    found = records("text", tmp_path)
    assert [record.text for record in found if record.problem is None] == ["first document", "still first", "second"]
    assert problems(found) == {
        ".DS_Store": "file is hidden",
        "._x.txt": "file is hidden",
        "urlsf_subset00-1_data.xz/x.npy": "file is not read as text by its name",
    }
    outer = tar_of({f"openwebtext/{number}.xz": lzma.compress(inner) for number in range(2)})
    write(
        tmp_path,
        {"whole/openwebtext.tar.xz": lzma.compress(outer), "deep.tar": tar_of({"a.tar": tar_of({"b.tar": inner})})},
    )
    assert sum(record.problem is None for record in records("text", tmp_path / "whole")) == 6
    assert "is a tar inside 2 others" in str(records("text", tmp_path / "deep.tar")[0].problem)


def test_a_damaged_tar_of_texts_is_refused_alone_and_counted_in_a_folder(tmp_path: Path) -> None:
    content = tar_of({f"{number}.txt": b"a text" for number in range(4)})
    write(tmp_path, {"a.tar": content[:2048] + bytes(512) + content[2560:], "b.txt": b"good"})
    with pytest.raises(ValueError, match="a.tar is a damaged tar"):
        records("text", tmp_path / "a.tar")
    found = records("text", tmp_path)
    assert [record.text for record in found if record.problem is None] == ["a text", "a text", "good"]
    assert problems(found) == {"a.tar": "file is a damaged tar"}


def test_a_folder_named_as_a_partition_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "year=2020"
    folder.mkdir()
    parquet(folder / "a.parquet", text=["one"], image=["a.jpg"], caption=["two"])
    assert [record.text for record in records("text", folder)] == ["one"]
    assert [record.text for record in records("pair", tmp_path)] == ["two"]
    assert [(record.name, record.place) for record in records("pair", tmp_path)] == [
        ("year=2020/a.jpg", f"{folder / 'a.parquet'}: row 1")
    ]


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder, {os.fsdecode(b"\xe9.jpg"): b"image", os.fsdecode(b"\xe9.txt"): b"caption"})
    (found,) = records("pair", folder)
    assert found.text == "caption" and found.image is not None and read_image(found.image) == b"image"
    (tmp_path / "list.txt").write_bytes(b"caf\xe9/\xe9.jpg\n")
    (found,) = records("image", tmp_path / "list.txt")
    assert found.image is not None and read_image(found.image) == b"image" and found.key == "caf___"
    (folder / "pairs.jsonl").write_text(json.dumps({"image": os.fsdecode(b"\xe9.jpg"), "caption": "a"}))
    (found,) = records("pair", folder / "pairs.jsonl")
    assert found.image is not None and read_image(found.image) == b"image"
