"""Indexing shards of other tools: members that are kept, skipped and counted, and folders as found."""

import io
import os
import shutil
import tarfile
from fractions import Fraction
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.index_shards import IndexOptions, _index, index_shards
from data_pipeline.loading.config import parse_source
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from tests.support.http_servers import CountingHandler, serving
from tests.support.shard_files import GOOD, JPEG, index_and_report, index_folder, indexed, keys, write_tar
from tests.support.tiny_run import TinyData


def test_a_truncated_tar_is_refused_or_left_out(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.png", GOOD), (f"{number}.txt", b"a circle")])
    for number in (0, 2):
        os.truncate(tmp_path / f"{number}.tar", 1024)
    with pytest.raises(
        ValueError, match=r"(?s)0.tar is not a readable tar.*2.tar is not a readable tar.*download it again"
    ):
        index_folder(tmp_path)
    report = index_folder(tmp_path, leave_out_damaged=True)
    assert keys(tmp_path) == ["1"] and report.skipped["damaged shard"] == 2
    assert "0.tar is not a readable tar" in report.examples["damaged shard"]


def test_a_corrupt_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [(f"{number}.txt", b"text") for number in range(6)])
    content = bytearray(path.read_bytes())
    content[3 * 1024 : 3 * 1024 + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(ValueError, match="corrupt at byte 3072|is not a readable tar"):
        index_folder(tmp_path, "text")


def test_a_path_that_leads_out_of_the_archive_is_skipped_and_named(tmp_path: Path) -> None:
    names = ["../../etc/a.txt", "/etc/b.txt", "c/../../d.txt", "good.txt"]
    write_tar(tmp_path / "0.tar", [(name, b"text") for name in names])
    report = index_folder(tmp_path, "text")
    assert keys(tmp_path) == ["good"]
    assert report.skipped == {"name leads out of the archive": 3}
    assert report.examples == {"name leads out of the archive": "0.tar:../../etc/a.txt"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(write_tar(tmp_path / "0.tar", [("good.txt", b"text")]), "a") as tar:
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    index_folder(tmp_path, "text")
    assert keys(tmp_path) == ["good"]


def test_a_key_that_occurs_twice_keeps_its_first_sample(tmp_path: Path) -> None:
    members = [
        ("a.png", GOOD),
        ("a.txt", b"first"),
        ("b.png", GOOD),
        ("b.txt", b"b"),
        ("a.png", GOOD),
        ("a.txt", b"2nd"),
    ]
    write_tar(tmp_path / "0.tar", members)
    report = index_folder(tmp_path)
    assert keys(tmp_path) == ["a", "b"]
    assert report.skipped == {
        "key has a second image, the first is kept": 1,
        "key has a second text, the first is kept": 1,
    }
    assert report.examples["key has a second text, the first is kept"] == "0.tar:a.txt"


def test_a_member_of_zero_bytes_and_a_missing_caption_are_skipped_and_named(tmp_path: Path) -> None:
    members = [("a.png", GOOD), ("a.txt", b""), ("b.png", b""), ("b.txt", b"b"), ("c.png", GOOD), ("d.png", GOOD)]
    write_tar(tmp_path / "0.tar", [*members, ("d.txt", b"d")])
    report = index_folder(tmp_path)
    assert keys(tmp_path) == ["d"]
    assert report.skipped == {"text is missing or empty": 2, "image is missing or empty": 1}
    assert report.examples == {"text is missing or empty": "0.tar:a", "image is missing or empty": "0.tar:b"}


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a\x10\0\x10\0"]
)
def test_a_file_named_as_an_image_that_is_not_one_does_not_enter_the_index(content: bytes, tmp_path: Path) -> None:
    members = [("a.png", GOOD), ("a.txt", b"a circle"), ("b.jpg", content), ("b.txt", b"a square")]
    write_tar(tmp_path / "0.tar", members)
    report = index_folder(tmp_path)
    assert keys(tmp_path) == ["a"]
    reason = "image is neither JPEG nor PNG nor WebP"
    assert report.skipped == {reason: 1, "image is missing or empty": 1}
    assert report.examples[reason] == f"0.tar:b.jpg (it begins with {content[:8]!r})"


def test_shards_of_other_tools_are_indexed_in_place_or_elsewhere_at_any_depth(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "png")
    theirs = tmp_path / "theirs"
    (theirs / "part0").mkdir(parents=True)
    with webdataset.TarWriter(str(theirs / "part0" / "00000.tar")) as writer:
        writer.write({"__key__": "a/000000001", "jpg": png.getvalue(), "txt": "one", "json": {"width": 4}})
        writer.write({"__key__": "a/000000002", "jpg": png.getvalue(), "json": {"width": 4}})  # has no caption
    before = (theirs / "part0" / "00000.tar").read_bytes()
    index, report = index_and_report("pair", theirs)
    assert keys(index) == ["a/000000001"] and index.shards[0].name == "part0/00000.tar"
    assert report.skipped == {"text is missing or empty": 1}
    first = "00000.tar:a/000000002 (--caption-key names its field of the .json)"
    assert report.lines() == [f"  skipped 1: text is missing or empty; the first: {first}"]
    assert index_and_report("image", theirs)[0].num_samples == 2
    index_shards(IndexOptions("pair", str(theirs), out=tmp_path / "index"))
    elsewhere = read_index(tmp_path / "index")
    assert elsewhere.fingerprint == index.fingerprint
    assert SampleReader(elsewhere, 1 << 20).text(0) == "one"
    assert (theirs / "part0" / "00000.tar").read_bytes() == before


def test_only_new_and_changed_shards_are_read_again(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.txt", b"text")])
    index_and_report("text", tmp_path)
    scans = sorted((tmp_path / ".index").glob("*.npz"))
    before = [path.stat().st_mtime_ns for path in scans]
    write_tar(tmp_path / "1.tar", [("1.txt", b"text"), ("new.txt", b"more")])
    write_tar(tmp_path / "3.tar", [("3.txt", b"text")])
    assert keys(index_and_report("text", tmp_path)[0]) == ["0", "1", "new", "2", "3"]
    after = [path.stat().st_mtime_ns for path in scans]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_a_single_tar_is_indexed_with_out_or_refused_with_the_remedy(tmp_path: Path) -> None:
    for number in range(2):
        write_tar(tmp_path / f"{number}.tar", [(f"{number}.txt", b"text")])
    path = tmp_path / "1.tar"
    with pytest.raises(ValueError, match="is a single shard; give --out, a folder for its index, or the folder"):
        indexed("text", path)
    indexed("text", path, out=tmp_path / "index")
    assert keys(tmp_path / "index") == ["1"] and SampleReader(read_index(tmp_path / "index"), 99).text(0) == "text"
    with pytest.raises(ValueError, match=f"{path} is a single shard; index it with .*index_shards KIND {path} --out"):
        read_index(path)


def test_a_folder_with_an_equals_sign_and_the_files_of_img2dataset_are_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "year=2020"
    folder.mkdir()
    write_tar(folder / "00000.tar", [("000000000.jpg", JPEG), ("000000000.txt", b"text"), ("000000000.json", b"{}")])
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "00000_stats.json").write_text("{}")
    report = indexed("pair", folder)
    assert not report.skipped and read_index(folder).num_samples == 1
    assert parse_source(str(folder)) == (str(folder), Fraction(1))
    assert parse_source(f"{folder}=3") == (str(folder), Fraction(3))
    (tmp_path / "year").mkdir()
    with pytest.raises(ValueError, match="is a folder, and .*/year' is one too; write '.*year=2020=1' for the former"):
        parse_source(str(folder))
    assert parse_source("pairs=1e999999999") == ("pairs=1e999999999", Fraction(1))


def test_names_that_are_not_utf_8_are_escaped_in_messages_and_refused_in_an_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("caf\udce9.txt", b"one"), ("a\x1b[2J.txt", b"one"), ("b\x1b.gif", b"x")])
    report = indexed("text", tmp_path, deduplicate=True)
    assert report.examples["exact copy of another sample"] == "0.tar:a\\x1b[2J"
    assert all(line.isprintable() for line in report.lines())
    assert SampleReader(read_index(tmp_path), 99).key(0) == "caf\\xe9"
    os.rename(tmp_path / "0.tar", os.fsencode(tmp_path) + b"/caf\xe9.tar")
    with pytest.raises(ValueError, match=r"'caf\\xe9.tar' is not UTF-8, as names in an index must be; rename it"):
        indexed("text", tmp_path)


def test_a_shard_that_cannot_be_opened_is_not_left_out_as_damaged(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"one")])
    (tmp_path / "1.tar").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"1.tar cannot be read \(No such file or directory\)\nmake them readable"):
        indexed("text", tmp_path, leave_out_damaged=True)


def test_hidden_archives_are_counted_and_damaged_ones_alone_give_no_index(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"one")])
    (tmp_path / "._0.tar").write_bytes(b"\0\5\x16\7 as macOS leaves it")
    (tmp_path / ".trash").mkdir()
    write_tar(tmp_path / ".trash" / "1.tar", [("b.txt", b"two")])
    report = indexed("text", tmp_path)
    assert (report.num_kept, report.skipped) == (1, {"archive is hidden": 2})
    (tmp_path / "0.tar").write_bytes(b"damaged" * 100)
    with pytest.raises(
        ValueError, match=r"(?s)0.tar is not a readable tar.*repair them, or skip them with --leave-out"
    ):
        indexed("text", tmp_path, leave_out_damaged=True)


def test_replacing_an_index_of_another_kind_is_reported_and_indexed_folders_are_not_joined(
    pairs: Path, tmp_path: Path
) -> None:
    report = _index(IndexOptions("image", str(pairs), num_workers=1, out=tmp_path / "images"))
    assert "replaces" not in report and read_index(tmp_path / "images").kind == "image"
    report = _index(IndexOptions("image", str(pairs), num_workers=1))
    assert "  warning: this replaces an index of kind 'pair'; --out keeps both" in report
    outer = tmp_path / "outer"
    shutil.copytree(pairs, outer / "held_out")
    with pytest.raises(ValueError, match=rf"index of their own \(.*{outer}/held_out\); name one"):
        indexed("pair", outer)
    with pytest.raises(ValueError, match=rf"{outer} has no index.json; name one of {outer}/held_out"):
        read_index(outer)


def test_remote_shards_are_indexed_from_afar(
    server: tuple[str, list[str]], tiny_data: TinyData, tmp_path: Path
) -> None:
    url, _ = server
    with pytest.raises(ValueError, match="is remote; give --out"):
        index_shards(IndexOptions("pair", f"{url}/pairs"))
    index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
    index, theirs = read_index(tmp_path / "index"), read_index(tiny_data.folder / "pairs")
    assert (index.folder, index.fingerprint) == (f"{url}/pairs", theirs.fingerprint)
    result = check_shards(CheckOptions(str(tmp_path / "index"), cache_folder=tmp_path / "cache"))
    assert result.report.num_kept == theirs.num_samples and not result.damaged


def test_a_remote_shard_that_changed_is_read_again_and_a_name_that_leads_outside_is_refused(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    class Listing(CountingHandler):
        """Lists a shard outside of its folder."""

        def list_directory(self, path: object) -> io.BytesIO:
            page = b'<a href="x/../../../../evil/pwn.tar">pwn</a>'
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            return io.BytesIO(page)

    folder = tmp_path / "pairs"
    shutil.copytree(tiny_data.folder / "pairs", folder)
    with serving(CountingHandler, tmp_path) as url:
        index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
        before = read_index(tmp_path / "index")
        shutil.copy(folder / before.shards[-1].name, folder / before.shards[0].name)  # of another size
        index_shards(IndexOptions("pair", f"{url}/pairs", out=tmp_path / "index"))
        after = read_index(tmp_path / "index")
        assert after.shards[0].sha256 == before.shards[-1].sha256
    with serving(Listing, tmp_path) as url, pytest.raises((ValueError, OSError)):
        index_shards(IndexOptions("pair", f"{url}/other", out=tmp_path / "other"))
    assert not list(tmp_path.rglob("pwn*"))
