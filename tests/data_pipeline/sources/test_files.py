"""Walking folders as found on clusters. CPU, seconds."""

import os
from pathlib import Path

import pytest

from data_pipeline.sources.files import form, walk


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_walk_gives_all_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a.jpg", "a/b.jpg", "a/c/d.jpg", "a0.jpg", "b.jpg", "\xe4.jpg", "a/.hidden"]
    write(tmp_path, *names)
    assert list(walk(tmp_path)) == sorted(names)


def test_a_walk_follows_links_to_folders_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "n01/1.JPEG", "n02/2.JPEG")
    (tmp_path / "train").mkdir()
    for name in ("n01", "n02"):
        (tmp_path / "train" / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "train" / "again").symlink_to(tmp_path / "elsewhere" / "n01")
    (tmp_path / "elsewhere" / "n02" / "up").symlink_to(tmp_path / "train")
    assert list(walk(tmp_path / "train")) == ["again/1.JPEG", "n01/1.JPEG", "n02/2.JPEG"]


def test_a_link_to_nothing_is_not_silently_left_out_and_a_pipe_is(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert list(walk(tmp_path)) == ["image.jpg"]


def test_a_folder_that_cannot_be_listed_ends_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    listed = os.scandir

    def scandir(folder: str) -> object:  # root may list every folder, so that chmod has no effect
        if folder.endswith("b/"):
            raise PermissionError(folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        list(walk(tmp_path))


def test_a_folder_deeper_than_the_stack_of_python_is_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    Path("a.txt").touch()
    bottom = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)
    names = list(walk(Path()))
    os.fchdir(bottom)
    os.close(bottom)
    os.remove("a.txt")
    for _ in range(1200):  # pytest cannot remove folders this deep
        os.chdir("..")
        os.rmdir("d")
    assert names == ["d/" * 1200 + "a.txt"]


def test_a_walk_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    names = walk(tmp_path)
    assert next(names) == "a/1.jpg"
    (tmp_path / "b" / "2.jpg").rename(tmp_path / "b" / "3.jpg")
    assert list(names) == ["b/3.jpg"]


def test_the_form_of_a_file_is_its_suffix_below_the_compression() -> None:
    names = ["a.tar", "A.JSONL", "a.b.txt.gz", "a.csv.zst", "a.xml.bz2", "wiki_00.xz", "wiki_00", "v1.0/wiki_00"]
    assert [form(name) for name in names] == [".tar", ".jsonl", ".txt", ".csv", ".xml", "", "", ""]
