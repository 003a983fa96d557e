"""Images in damaged tars, and files that are named like images. CPU, seconds."""

import io
import tarfile
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record, read_image
from data_pipeline.sources.readers import SourceOptions, read_records


def tar_of(members: dict[str, bytes]) -> bytearray:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return bytearray(buffer.getvalue())


def images(source: Path) -> list[Record]:
    return list(read_records("image", str(source), SourceOptions()))


def test_linked_class_folders_are_read(tmp_path: Path) -> None:
    (tmp_path / "disk1" / "n01").mkdir(parents=True)
    (tmp_path / "disk1" / "n01" / "1.JPEG").write_bytes(b"image")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "n01").symlink_to(tmp_path / "disk1" / "n01")
    (record,) = images(tmp_path / "train")
    assert record.name == "n01/1.JPEG" and record.image is not None and read_image(record.image) == b"image"


def test_a_corrupt_header_in_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    content = tar_of({f"{number}.jpg": b"image" for number in range(4)})
    content[2048:2560] = b"\xff" * 512
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.tar is not a readable tar \(no header at byte 2048\)"):
        images(tmp_path / "a.tar")


def test_a_tar_that_breaks_off_is_refused_with_the_byte(tmp_path: Path) -> None:
    content = tar_of({f"{number}.jpg": bytes(1000) for number in range(4)})
    for num_bytes in (3 * 1536, 3 * 1536 + 100, 3 * 1536 + 600):
        (tmp_path / "a.tar").write_bytes(content[:num_bytes])
        with pytest.raises(ValueError, match="it breaks off at byte"):
            images(tmp_path / "a.tar")


@pytest.mark.parametrize("damage", ["corrupt header", "breaks off", "no tar"])
def test_a_damaged_inner_tar_is_skipped_by_name_and_the_others_are_read(damage: str, tmp_path: Path) -> None:
    inner = {
        wnid: tar_of({f"{wnid}_{number}.JPEG": bytes(100) for number in range(2)}) for wnid in ("n01", "n02", "n03")
    }
    if damage == "corrupt header":
        inner["n02"][1024:1536] = b"\xff" * 512
    else:
        inner["n02"] = inner["n02"][:1536] if damage == "breaks off" else bytearray(b"<html>404</html>")
    path = tmp_path / "winter21_whole.tar"
    path.write_bytes(tar_of({f"winter21_whole/{wnid}.tar": bytes(content) for wnid, content in inner.items()}))
    found = images(path)
    assert {record.name for record in found if record.problem is None} >= {
        f"{wnid}/{wnid}_{number}.JPEG" for wnid in ("n01", "n03") for number in range(2)
    }
    (problem,) = [record for record in found if record.problem is not None]
    assert problem.name == "winter21_whole/n02.tar" and str(problem.problem).startswith("inner tar is damaged (")


def test_hidden_files_in_tars_are_counted(tmp_path: Path) -> None:
    inner = bytes(tar_of({"./1.JPEG": b"one", "./._1.JPEG": b"attributes"}))
    (tmp_path / "a.tar").write_bytes(tar_of({"./n01.tar": inner, "._n01.tar": b"attributes", "b/.git/c.jpg": b"image"}))
    found = images(tmp_path / "a.tar")
    assert [record.name for record in found if record.problem is None] == ["n01/1.JPEG"]
    assert [(record.name, record.problem) for record in found if record.problem] == [
        ("n01/._1.JPEG", "member is hidden"),
        ("._n01.tar", "member is hidden"),
        ("b/.git/c.jpg", "member is hidden"),
    ]


def test_members_that_are_not_images_and_joined_tars_are_counted(tmp_path: Path) -> None:
    inner = tar_of({"1.JPEG": b"one", "readme.txt": b"text"}) + tar_of({"2.JPEG": b"two"})
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in {"n01.tar": bytes(inner), "a.jpg": b"image", "labels.mat": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, kind in {"link.jpg": tarfile.SYMTYPE, "folder.jpg": tarfile.DIRTYPE}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.jpg"
            tar.addfile(member)
    found = images(tmp_path / "a.tar")
    read = [(record.name, read_image(record.image)) for record in found if record.image is not None]
    assert read == [("n01/1.JPEG", b"one"), ("n01/2.JPEG", b"two"), ("a.jpg", b"image")]
    assert [(record.name, record.problem) for record in found if record.image is None] == [
        ("n01/readme.txt", "member is not an image by its name"),
        ("n01/bytes 2560 to 10751", "zeros between members, from joined archives or a hole in a download"),
        ("labels.mat", "member is not an image by its name"),
        ("link.jpg", "member is a link, which is not followed"),
    ]


def test_a_block_of_zeros_in_a_tar_is_not_taken_for_its_end(tmp_path: Path) -> None:
    content = tar_of({f"{number}.jpg": b"image" for number in range(4)})
    content[1024:1536] = bytes(512)
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"zeros at byte 1024 and more data at byte 1536: a hole in a download"):
        images(tmp_path / "a.tar")
