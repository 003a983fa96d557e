"""Folders as they lie on clusters, and text as it breaks on its way. CPU, seconds."""

import bz2
import gzip
import lzma
import os
import struct
from pathlib import Path

import pytest
import zstandard

from data_pipeline.sources.files import form, walk
from data_pipeline.sources.text_lines import open_text


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

    def scandir(folder: str) -> object:  # root may list every folder, so that chmod does not show it
        if folder.endswith("b/"):
            raise PermissionError(folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        list(walk(tmp_path))


def test_a_walk_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    names = walk(tmp_path)
    assert next(names) == "a/1.jpg"
    (tmp_path / "b" / "2.jpg").rename(tmp_path / "b" / "3.jpg")
    assert list(names) == ["b/3.jpg"]


def test_the_form_of_a_file_is_its_suffix_below_the_compression() -> None:
    names = ["a.tar", "A.JSONL", "a.b.txt.gz", "a.csv.zst", "a.xml.bz2", "wiki_00.xz", "wiki_00", "v1.0/wiki_00"]
    assert [form(name) for name in names] == [".tar", ".jsonl", ".txt", ".csv", ".xml", "", "", ""]


TEXT = b"first\nsecond\n" * 100_000
COMPRESSED = {
    ".gz": gzip.compress(TEXT),
    ".bz2": bz2.compress(TEXT),
    ".xz": lzma.compress(TEXT),
    ".zst": zstandard.compress(TEXT),
}


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_text_is_read_and_refused_by_name_where_it_breaks_off_or_is_corrupt(
    suffix: str, tmp_path: Path
) -> None:
    content, path = COMPRESSED[suffix], tmp_path / f"a.txt{suffix}"
    for whole in (content, content + content):
        path.write_bytes(whole)
        with open_text(path) as lines:
            assert "".join(lines).encode() == TEXT * (len(whole) // len(content))
    middle = len(content) // 2
    for broken in (content[:-3], content[:middle], content + content[:middle], b"<html>404</html>", b"\xff" * 500):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=f"a.txt{suffix} breaks off or is corrupt"), open_text(path) as lines:
            list(lines)


def test_zstandard_with_a_long_window_and_with_frames_to_skip_is_read(tmp_path: Path) -> None:
    long = zstandard.ZstdCompressionParameters(window_log=28, format=zstandard.FORMAT_ZSTD1)
    compressor = zstandard.ZstdCompressor(compression_params=long).compressobj()  # the size of the text is not told
    frame = compressor.compress(TEXT) + compressor.flush()
    skipped = struct.pack("<II", 0x184D2A50, 4) + b"pzst"
    (tmp_path / "a.txt.zst").write_bytes(skipped + frame + skipped + frame)
    with open_text(tmp_path / "a.txt.zst") as lines:
        assert "".join(lines).encode() == TEXT * 2


def test_a_failing_disk_is_not_taken_for_a_corrupt_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), open_text(tmp_path) as lines:
        list(lines)


def test_a_byte_order_mark_is_no_part_of_the_text_and_a_lone_carriage_return_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\rstill one\r\ntwo\n")
    with open_text(tmp_path / "a.txt") as lines:
        assert [line.strip() for line in lines] == ["one\rstill one", "two"]


def test_what_is_not_utf_8_becomes_lone_surrogates_and_a_replacement_character_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("caf\ufffd\n".encode() + b"caf\xe9\n")
    with open_text(tmp_path / "a.txt") as lines:
        assert list(lines) == ["caf\ufffd\n", "caf\udce9\n"]
