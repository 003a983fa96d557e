"""Scans of tars: each member is part of a kept sample, or skipped and counted; damaged scans are repeated."""

import io
import json
import os
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from data_pipeline.samples.sample import IMAGE_BEGINNINGS, IMAGE_EXTENSIONS, Kind
from data_pipeline.shards.index import read_index
from data_pipeline.shards.members import EARLY_DOT
from data_pipeline.shards.reader import SampleReader
from data_pipeline.shards.scan import load_scan, scan_path, scan_shard
from tests.support.shard_files import GOOD, JPEG, indexed, keys, write_tar

KEYS = ["a", "b", "v1.0/a", "./a", "photo v1", "../x", "/x", ".hidden", ""]


EXTENSIONS = [
    ".jpg",
    ".txt",
    ".json",
    ".PNG",
    ".jpeg",
    ".gif",
    ".tiff",
    ".avif",
    ".cls",
    ".txt.gz",
    "",
    ".1.txt",
    ".0.jpg",
]


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from([*EXTENSIONS[:4], *EXTENSIONS]),
        st.sampled_from([b"", JPEG, b"GIF89a", b'{"caption": "one"}', b'{"caption": 1}']),
        st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]),
    ),
    max_size=12,
)


@given(MEMBERS, st.sampled_from(["image", "pair", "text"]), st.sampled_from(["", "caption"]), st.integers(0, 12))
@settings(max_examples=300)
def test_kept_and_skipped_members_add_up_to_all_members(
    members: list[tuple[str, str, bytes, bytes]], kind: Kind, caption_key: str, joined_at: int
) -> None:
    content = b""
    for part in (members[:joined_at], members[joined_at:]):  # two archives, joined
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for key, extension, body, member_type in part:
                member = tarfile.TarInfo(key + extension)
                member.type, member.linkname = member_type, "a.txt"
                member.size = len(body) if member_type == tarfile.REGTYPE else 0
                tar.addfile(member, io.BytesIO(body))
        content += buffer.getvalue()
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"imglish_property_{os.getpid()}.tar"
    path.write_bytes(content)
    try:
        scan = scan_shard(path, kind, "", caption_key="" if kind == "image" else caption_key)
    finally:
        path.unlink()
    kept = expected_samples(members, kind, "" if kind == "image" else caption_key)
    assert Counter(bytes(record["key"]).decode() for record in scan.records) == Counter(kept.keys())
    report = scan.report
    assert report.num_members == len(members)
    assert scan.num_members.tolist() == list(kept.values())
    assert sum(kept.values()) + report.num_skipped_members == len(members)
    assert report.num_kept == len(kept) and set(report.examples) == set(report.skipped)
    if len(members) > sum(kept.values()):
        assert sum(report.skipped.values()) > 0


def expected_samples(members: list[tuple[str, str, bytes, bytes]], kind: Kind, caption_key: str) -> dict[str, int]:
    """Return the number of members of each kept sample, by WebDataset's own split of names."""
    found: dict[str, dict[str, bool]] = {}
    for folder_and_key, extension, content, member_type in members:
        key, suffix = base_plus_ext((folder_and_key + extension).removeprefix("./"))
        if member_type != tarfile.REGTYPE or key is None or key.startswith("/") or ".." in key.split("/"):
            continue
        suffix = suffix.lower()
        if suffix in IMAGE_EXTENSIONS and (not content or content.startswith(IMAGE_BEGINNINGS)):
            found.setdefault(key, {}).setdefault("image", bool(content))
        elif suffix == "json" and (not caption_key or content == b'{"caption": "one"}'):
            found.setdefault(key, {}).setdefault("text" if caption_key else "json", True)
        elif suffix == "txt":
            found.setdefault(key, {}).setdefault("txt" if caption_key else "text", bool(content))
    needed = {"image": ["image"], "text": ["text"], "pair": ["image", "text"]}[kind]
    return {key: len(parts) for key, parts in found.items() if all(parts.get(part) for part in needed)}


def test_each_member_that_is_left_out_is_counted_by_its_reason_with_the_first_name(tmp_path: Path) -> None:
    members = [("a.jpg", JPEG), ("a.txt", b"kept"), ("a.json", b"{}"), ("a.1.txt", b"further"), ("a.gif", b"GIF89a")]
    members += [("photo v1.0.jpg", JPEG), ("photo v1.1.jpg", JPEG), ("photo v1.0.txt", b"text"), ("none", b"x")]
    members += [(".jpg", JPEG), ("b.jpg", b"GIF89a"), ("c.cls", b"7"), ("a.PNG", b"\x89PNG\r\n\x1a\n"), ("d.avif", b"")]
    with tarfile.open(write_tar(tmp_path / "0.tar", members), "a") as tar:
        for number, member_type in enumerate([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]):
            member = tarfile.TarInfo(f"e{number}.txt")
            member.type, member.linkname = member_type, "a.txt"
            tar.addfile(member)
    for name in ("1.tar.gz", "2.tgz", "3.TAR", "00000.parquet", "00000_stats.json"):
        (tmp_path / name).write_bytes(b"not read")
    report = indexed("pair", tmp_path)
    dots = "name has a dot before its extension, and WebDataset's key ends at the first dot"
    assert report.skipped == {
        dots: 4,
        ".gif is not a supported image format, convert it to .jpg, .png or .webp": 1,
        ".avif is not a supported image format, convert it to .jpg, .png or .webp": 1,
        "name has no extension": 1,
        "name begins with a dot, which leaves no key": 1,
        "image is neither JPEG nor PNG nor WebP": 1,
        "extension is neither an image's nor .txt nor .json": 1,
        "key has a second image, the first is kept": 1,
        "member is a link, which is not followed": 2,
        "member is a folder": 1,
        "member is a device, a pipe or of another special type": 1,
        "archive is not a shard, decompress it to a file whose name ends in .tar": 3,
    }
    assert report.examples[dots] == "0.tar:a.1.txt"
    assert report.examples["key has a second image, the first is kept"] == "0.tar:a.PNG"
    assert report.examples["image is neither JPEG nor PNG nor WebP"] == "0.tar:b.jpg (it begins with b'GIF89a')"
    assert (report.num_members, report.num_skipped_members, keys(tmp_path)) == (18, 15, ["a"])


def test_sparse_members_joined_archives_and_long_tails_are_counted(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"one")])
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("b.txt", "c.txt"):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 3, {"GNU.sparse.size": "9"} if name == "b.txt" else {}
            tar.addfile(member, io.BytesIO(b"two"))
    joined = (tmp_path / "0.tar").read_bytes() + (tmp_path / "s.tar").read_bytes() + bytes(20_000)
    (tmp_path / "0.tar").write_bytes(joined)
    (tmp_path / "s.tar").unlink()
    report = indexed("text", tmp_path)
    assert keys(tmp_path) == ["a", "c"]
    assert report.skipped == {
        "member is sparse, pack it without tar -S": 1,
        "zeros between members, from joined archives or a hole in a download": 1,
        "zeros at the end, more than tar's padding, as an unfinished download leaves them": 1,
    }
    assert "0.tar:bytes 1024 to 10239" in report.examples.values()
    content = bytearray((tmp_path / "0.tar").read_bytes())
    content[1024:1536] = b"\xff" * 512
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"0.tar is not a readable tar \(no header at byte 1024\); write or download"):
        indexed("text", tmp_path)


def test_captions_are_read_from_a_field_of_the_json_members(tmp_path: Path) -> None:
    captions: dict[str, object] = {"a": "one", "b": 5, "c": ["x"], "d": " ", "e": "\ud83d", "f": "caf\u00e9"}
    captions |= {"i": "\u200b", "j": "x\0"}
    members = [(f"{key}.jpg", JPEG + key.encode()) for key in captions]
    members += [(f"{key}.json", json.dumps({"caption": value}).encode()) for key, value in captions.items()]
    members += [("g.jpg", JPEG), ("g.json", b"{" * 100_000), ("h.jpg", JPEG), ("h.json", b"[1]"), ("f.txt", b"other")]
    write_tar(tmp_path / "0.tar", members)
    report = indexed("pair", tmp_path, caption_key="caption")
    assert report.skipped == {
        ".json member has no text in field 'caption'": 4,
        ".json member is not valid JSON": 1,
        "text is not UTF-8": 1,
        "text has no visible character": 1,
        "text holds a NUL": 1,
        "text is missing or empty": 8,
    }
    assert report.num_members == 21 and report.num_skipped_members == 16
    reader = SampleReader(read_index(tmp_path), 1 << 20)
    assert [(reader.key(i), reader.text(i)) for i in range(2)] == [("a", "one"), ("f", "caf\u00e9")]
    assert reader.image_bytes(1) == JPEG + b"f"
    assert json.loads((tmp_path / "index.json").read_text())["version"] == 3  # older code would train on the JSON
    by_caption = reader.index.fingerprint
    with pytest.raises(ValueError, match=r"the first: 0.tar:a \(--caption-key names its field of the .json\)"):
        indexed("pair", write_tar(tmp_path / "0.tar", members[:-1]).parent)
    write_tar(tmp_path / "0.tar", members)
    indexed("pair", tmp_path)
    assert SampleReader(read_index(tmp_path), 1 << 20).text(0) == "other" and keys(tmp_path) == ["f"]
    assert read_index(tmp_path).fingerprint != by_caption
    with pytest.raises(ValueError, match="kind image has none"):
        indexed("image", tmp_path, caption_key="caption")


def test_samples_of_a_task_have_all_their_parts_or_are_named(tmp_path: Path) -> None:
    names = ("png", "image2.jpg", "txt", "json")
    contents = {"png": GOOD, "image2.jpg": JPEG, "txt": b"both", "json": b'{"identifier": "a"}'}
    members = [(f"good.{name}", contents[name]) for name in names]
    for number, missing in enumerate(names):
        members += [(f"{number}.{name}", contents[name]) for name in names if name != missing]
    members += [("other.image3.png", GOOD), ("bad.image2.png", b"no image")]
    report = indexed("nlvr2", write_tar(tmp_path / "0.tar", members).parent)
    assert keys(tmp_path) == ["good"] and report.num_skipped_members == 14
    assert report.examples == {
        "image is missing or empty": "0.tar:0",
        "image2 is missing or empty": "0.tar:1",
        "text is missing or empty": "0.tar:2",
        "json is missing or empty": "0.tar:3",
        EARLY_DOT: "0.tar:other.image3.png",
        "image is neither JPEG nor PNG nor WebP": "0.tar:bad.image2.png (it begins with b'no image')",
    }
    reader = SampleReader(read_index(tmp_path), 1 << 20)
    assert (reader.image_bytes(0), reader.image_bytes(0, "image2")) == (GOOD, JPEG) and reader.text(0) == "both"
    assert indexed("pair", tmp_path).skipped[EARLY_DOT] == 6  # second images are no part of a pair
    with pytest.raises(ValueError, match="kind vqa has none"):
        indexed("vqa", tmp_path, caption_key="caption")


def test_a_scan_whose_directory_leads_before_its_beginning_is_repeated(pairs: Path) -> None:
    path = scan_path(pairs, "0.tar")
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")  # bytes 12 to 20 of the zip record: size and position of the directory
    path.write_bytes(content[: end + 16] + b"\xff" * 4 + content[end + 20 :])
    with pytest.raises(FileNotFoundError, match="is damaged"):
        load_scan(path)
    assert indexed("pair", pairs).num_kept == 6


def test_a_scan_that_would_fill_the_memory_is_repeated(pairs: Path) -> None:
    path = pairs / ".index" / "0.npz"
    with zipfile.ZipFile(path) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<u8", "fortran_order": False, "shape": (10**12,)})  # type: ignore[no-untyped-call]
    for compression, hashes in ((zipfile.ZIP_STORED, head.getvalue()), (zipfile.ZIP_DEFLATED, contents["hashes.npy"])):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in {**contents, "hashes.npy": hashes}.items():
                archive.writestr(name, content)
        with pytest.raises(FileNotFoundError, match="is damaged"):
            load_scan(path)
    assert indexed("pair", pairs).num_kept == 6


def test_a_scan_whose_members_begin_before_the_file_is_repeated(pairs: Path) -> None:
    path = pairs / ".index" / "1.npz"
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    (directory,) = struct.unpack_from("<I", content, end + 16)
    struct.pack_into("<I", content, end + 16, directory + 1000)  # seeking to its members is an OSError
    path.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="is damaged"):
        load_scan(path)
    indexed("pair", pairs)
    load_scan(path)
