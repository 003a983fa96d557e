"""Images beside their captions, in folders and in tars."""

import io
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_pipeline.samples.records import Record, read_image
from data_pipeline.samples.sample import Kind
from data_pipeline.shards.members import EARLY_DOT
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


def test_images_beside_captions_as_img2dataset_leaves_them(tmp_path: Path) -> None:
    files = {}
    for number in range(3):
        files[f"00000/00000000{number}.jpg"] = bytes([number])
        files[f"00000/00000000{number}.txt"] = f"caption {number}\n".encode()
        files[f"00000/00000000{number}.json"] = b"{}"
    write(tmp_path, {**files, "00000_stats.json": b"{}", "00000/alone.jpg": b"", "00000/lost.txt": b"no image"})
    parquet(tmp_path / "00000.parquet", url=["http://a/0.jpg"], caption=["caption 0"], key=["000000000"], status=["ok"])
    found = records("pair", tmp_path)
    good = [record for record in found if record.problem is None]
    assert [(record.key, str(record.text).strip()) for record in good] == [
        (f"00000_00000000{number}", f"caption {number}") for number in range(3)
    ]
    assert [read_image(record.image) for record in good if record.image] == [b"\0", b"\1", b"\2"]
    other = "file is neither an image nor a caption by its name"
    assert problems(found) == {
        "00000.parquet": other,
        "00000_stats.json": other,
        **{f"00000/00000000{number}.json": other for number in range(3)},
        "00000/alone.jpg": "image has no caption beside it",
        "00000/lost.txt": "caption has no image beside it",
    }
    images = [record.name for record in records("image", tmp_path) if record.problem is None]
    assert images == [*(f"00000/00000000{number}.jpg" for number in range(3)), "00000/alone.jpg"]


def test_pairs_of_one_tar_by_webdatasets_keys(tmp_path: Path) -> None:
    members = {"a.jpg": b"a", "b.png": b"b", "a.txt": b"one", "b.txt": b"two", "c.txt": b"no image", "d.jpg": b"d"}
    members |= {"a.json": b"{}", "a.png": b"second", "./._a.jpg": b"", "e.jpg": b"e", "e.txt": "caf\xe9".encode()}
    members = {"a.mask.png": b"not the image", **members, "e.1.txt": b"further", "x/../../f.jpg": b"", "g": b""}
    write(tmp_path, {"pairs.tar": tar_of(members)})
    found = records("pair", tmp_path / "pairs.tar")
    assert [(r.key, r.text, read_image(r.image)) for r in found if r.image and not r.problem] == [
        ("a", "one", b"a"),
        ("b", "two", b"b"),
        ("e", "caf\xe9", b"e"),
    ]
    assert problems(found) == {
        "a.json": "member is neither an image nor a caption by its name",
        "./._a.jpg": "member is hidden",
        "a.mask.png": EARLY_DOT,
        "e.1.txt": EARLY_DOT,
        "x/../../f.jpg": "name leads out of the archive",
        "g": "name has no extension",
        "a.png": "key has a second image",
        "c.txt": "caption has no image beside it",
        "d.jpg": "image has no caption beside it",
    }
    assert all(record.place.startswith(f"{tmp_path / 'pairs.tar'}: ") for record in found)


def test_a_damaged_tar_of_pairs_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write(tmp_path, {"pairs.tar": tar_of({"a.jpg": b"a", "a.txt": b"one"})[:1200]})
    with pytest.raises(ValueError, match="pairs.tar is not a readable tar .*; unpack or download it again"):
        records("pair", tmp_path / "pairs.tar")
