"""Every member of a tar is read or reported as lost: joined, holed, sparse, hostile, from files and from pipes."""

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.samples.sample import MAX_PRINTED, printable
from data_pipeline.shards.tar_members import (
    BLOCK_BYTES,
    MAX_EXTENSION_BYTES,
    RECORD_BYTES,
    UNUSABLE,
    TarEntry,
    TarError,
    TarReader,
)

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


class Pipe(io.RawIOBase):
    """A stream that cannot seek and returns pieces of any size."""

    def __init__(self, content: bytes) -> None:
        self.content, self.random = io.BytesIO(content), random.Random(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self.content.read(min(len(buffer), self.random.randint(1, 700)))
        buffer[: len(piece)] = piece
        return len(piece)


def tar_of(members: dict[str, bytes], form: str = "pax", pax: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form]) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), pax or {}
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(content: bytes, from_pipe: bool = False) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(Pipe(content) if from_pipe else io.BytesIO(content), "a.tar")  # type: ignore[arg-type]
    return [(entry, reader.open().read() if entry.kind == "file" else b"") for entry in reader]


def read_or_problem(content: bytes, from_pipe: bool = False) -> tuple[list[TarEntry], str]:
    try:
        return [entry for entry, _ in read(content, from_pipe)], ""
    except TarError as error:
        return [], str(error)


def kinds(content: bytes) -> dict[str, str]:
    return {entry.name: entry.kind for entry, _ in read(content)}


def header(name: bytes = b"a.txt", size: bytes = b"00000000000", kind: bytes = b"0") -> bytearray:
    """Return a ustar header with the right checksum, whatever is in it."""
    block = bytearray(BLOCK_BYTES)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[257:265] = b"ustar\00000"
    return summed(block)


def summed(block: bytearray) -> bytearray:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return block


def pax(records: bytes, size: bytes = b"00000000005") -> bytes:
    extension = header(b"x", b"%011o" % len(records), b"x")
    return bytes(extension) + records.ljust(BLOCK_BYTES, b"\0") + bytes(header(size=size))


NAMES = st.text("ab./\u00e9", min_size=1, max_size=140).filter(lambda name: not name.endswith("/"))
TYPES = st.sampled_from([b"0", b"0", b"\0", b"7", b"1", b"2", b"3", b"5", b"6"])
SIZES = st.sampled_from([0, 1, 511, 512, 513, 3000])


@given(st.lists(st.tuples(NAMES, TYPES, SIZES), max_size=6), st.sampled_from(["gnu", "pax"]), st.booleans())
@settings(max_examples=200)
def test_every_member_is_seen_as_tarfile_sees_it(
    members: list[tuple[str, bytes, int]], form: str, from_pipe: bool
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form]) as tar:
        for number, (name, kind, size) in enumerate(members):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "x" * size if kind in (b"1", b"2") else ""
            member.size = size if kind in (b"0", b"\0", b"7") else 0
            tar.addfile(member, io.BytesIO(bytes([number]) * member.size))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        theirs = [(m.name, m.isreg(), tar.extractfile(m).read() if m.isreg() else b"") for m in tar]  # type: ignore[union-attr]
    ours = read(buffer.getvalue(), from_pipe)
    assert [(entry.name.rstrip("/"), entry.kind == "file", content) for entry, content in ours] == theirs


def test_joined_archives_are_read_and_the_gap_between_them_is_reported() -> None:
    first, second = tar_of({f"{i}.txt": b"text" for i in range(30)}), tar_of({"last.txt": b"text"})
    for padding in (first, first[: 30 * 1024 + 1024]):  # padded as by tar, and with two blocks
        for from_pipe in (False, True):
            entries = [entry for entry, _ in read(padding + second, from_pipe)]
            assert [entry.kind for entry in entries] == ["file"] * 30 + ["gap", "file"]
            assert entries[30].name == f"bytes {30 * 1024} to {len(padding) - 1}"


def test_zeros_in_place_of_headers_are_an_error_or_reported() -> None:
    content, num_members = tar_of({f"{number:02d}.txt": b"text" for number in range(24)}), 24
    end = 2 * num_members
    for start in range(end):
        for stop in range(start + 1, end + 1):
            holed = bytearray(content)
            holed[start * BLOCK_BYTES : stop * BLOCK_BYTES] = bytes((stop - start) * BLOCK_BYTES)
            zeros = start // 2 * 1024 + (start % 2) * 1024
            is_padded = len(content) == zeros + 1024 + -(zeros + 1024) % RECORD_BYTES
            num_lost = sum(start <= 2 * number < stop for number in range(num_members))
            entries, problem = read_or_problem(bytes(holed))
            if problem:
                assert num_lost
                assert f"zeros at byte {zeros}" in problem
                continue
            is_reported = any(entry.kind in ("gap", "tail") for entry in entries)
            assert sum(entry.kind == "file" for entry in entries) == num_members - num_lost
            assert is_reported or not num_lost or (stop == end and is_padded)  # the end of an archive


def test_a_long_tail_of_zeros_is_reported() -> None:
    content = tar_of({"a.txt": b"text"})
    assert [entry.kind for entry, _ in read(content)] == ["file"]
    entries = [entry for entry, _ in read(content + bytes(20_000))]
    assert [(entry.name, entry.kind) for entry in entries] == [("a.txt", "file"), ("bytes 1024 to 30239", "tail")]
    unpadded = tar_of({"a.txt": b"text", "b.txt": b"text"})[:1024] + bytes(2048)  # its last member is lost
    assert [entry.kind for entry, _ in read(unpadded)] == ["file", "tail"]
    assert [entry.kind for entry, _ in read(unpadded[:-1024])] == [entry.kind for entry, _ in read(content)]


def test_sparse_members_of_every_kind_are_distinguished_from_files(tmp_path: Path) -> None:
    with (tmp_path / "holes.txt").open("wb") as file:
        for number in range(40):  # more holes than a header holds: the map of GNU's oldest form continues
            file.seek(number << 16)
            file.write(b"data")
    (tmp_path / "z.txt").write_bytes(b"a caption")
    forms = [["--format=gnu"], ["--format=oldgnu"]]
    forms += [["--format=posix", f"--sparse-version={version}"] for version in ("0.0", "0.1", "1.0")]
    for number, form in enumerate(forms):
        path = tmp_path / f"{number}.tar"
        subprocess.run(["tar", *form, "-S", "-cf", path, "-C", tmp_path, "holes.txt", "z.txt"], check=True)
        assert kinds(path.read_bytes()) == {"holes.txt": "sparse", "z.txt": "file"}, form
        assert read(path.read_bytes())[1][1] == b"a caption"
    for keyword in ("SCHILY.realsize", "SUN.holesdata", "GNU.sparse.size"):
        assert kinds(tar_of({"a.txt": b"text"}, pax={keyword: "9"})) == {"a.txt": "sparse"}


def record(keyword: bytes, value: bytes) -> bytes:
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + next(n for n in range(1, 9) if len(str(len(body) + n)) == n)
    return b"%d" % length + body


ONE_PETABYTE = b"\x80" + (1 << 50).to_bytes(11)
LONG_NAME = bytes(header(b"././@LongLink", b"00000000005", b"L")) + b"b.txt".ljust(BLOCK_BYTES, b"\0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(size=b"\xff" * 12), "size is not a number of bytes at byte 0"),
        (header(size=b"\xff" * 11 + b"\x00"), "size is not a number of bytes at byte 0"),
        (header(size=b"\x80" + b"\xff" * 11), "size is not a number of bytes at byte 0"),
        (header(size=b"-0000000005"), "size is not a number of bytes at byte 0"),
        (header(size=b"0o000000005"), "size is not a number of bytes at byte 0"),
        (header(size=b"0000000_005"), "size is not a number of bytes at byte 0"),
        (header(size=ONE_PETABYTE), f"a member of {1 << 50} bytes at byte 0"),
        (header(b"././@LongLink", ONE_PETABYTE, b"L"), f"a long name of {1 << 50} bytes, more than"),
        (header(b"././@LongLink", ONE_PETABYTE, b"K"), f"a long name of {1 << 50} bytes, more than"),
        (header(b"x", b"%011o" % (MAX_EXTENSION_BYTES + 1), b"x"), f"a pax header of {MAX_EXTENSION_BYTES + 1} bytes"),
        (header(b"x", ONE_PETABYTE, b"g"), f"a global pax header of {1 << 50} bytes"),
        (LONG_NAME * 2000, "a member with two long names at byte 0"),
        (pax(record(b"path", b"b"))[:1024] * 2000, "a member with two pax headers at byte 0"),
        (pax(record(b"size", b"9" * 400)), "size is not a number of bytes at byte 0"),
        (pax(record(b"size", b"-5")), "size is not a number of bytes at byte 0"),
        (pax(record(b"size", b"\xd9\xa5")), "size is not a number of bytes at byte 0"),
        (pax(b"99999999999999999999 path=x\n"), "a damaged pax header at byte 0"),
        (pax(b"0 path=x\n"), "a damaged pax header at byte 0"),
        (pax(b"-9 path=x\n"), "a damaged pax header at byte 0"),
        (pax(b"9999 path=x\n"), "a damaged pax header at byte 0"),
        (LONG_NAME, "it breaks off at byte 1024"),
        (LONG_NAME + bytes(10240), "no header at byte 1024"),
        (b"", "it breaks off at byte 0"),
        (b"<html>404 Not Found</html>", "it breaks off at byte 26"),
        (b"\x1f\x8b" + bytes(600), "it is compressed by gzip: decompress it"),
        (b"\xff" * 600, "no header at byte 0"),
    ],
)
@pytest.mark.parametrize("from_pipe", [False, True])
def test_a_header_that_lies_is_refused_with_its_place(content: bytes, message: str, from_pipe: bool) -> None:
    if from_pipe and "a member of" in message:
        message = "it breaks off at byte"
    with pytest.raises(TarError, match="a.tar is not a readable tar") as raised:
        read(bytes(content), from_pipe)
    assert message in str(raised.value)


@pytest.mark.parametrize("keyword", ["path", "size", "GNU.sparse.major"])
def test_a_global_header_that_names_or_sizes_all_members_is_refused(keyword: str) -> None:
    records = record(keyword.encode(), b"1")
    content = header(b"g", b"%011o" % len(records), b"g") + records.ljust(BLOCK_BYTES, b"\0") + tar_of({"a.txt": b"x"})
    with pytest.raises(TarError, match=f"a global pax header that sets the {keyword} of all members at byte 0"):
        read(bytes(content))
    records = record(b"comment", b"of git archive")
    archive = tar_of({"a.txt": b"x"})[: -2 * BLOCK_BYTES]  # the header takes two blocks of padding
    content = header(b"g", b"%011o" % len(records), b"g") + records.ljust(BLOCK_BYTES, b"\0") + archive
    assert kinds(bytes(content)) == {"a.txt": "file"}


@given(st.data())
@settings(max_examples=200)
def test_whatever_is_damaged_the_reader_ends_with_members_or_one_error(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(sorted(FORMATS)))
    name = data.draw(st.sampled_from(["a.txt", "x" * 90 + "/" + "y" * 60 + ".txt"]))
    content = bytearray(tar_of({name: b"text", "b.txt": bytes(700)}, form, {"comment": "c"} if form == "pax" else None))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, 4000))
        content[position : position + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    if data.draw(st.booleans()):  # with valid checksums
        for block in range(0, len(content) - BLOCK_BYTES, BLOCK_BYTES):
            if content[block + 257 : block + 262] == b"ustar":
                content[block : block + BLOCK_BYTES] = summed(content[block : block + BLOCK_BYTES])
    entries, problem = read_or_problem(bytes(content), data.draw(st.booleans()))
    assert problem == "" or problem.startswith("a.tar is not a readable tar (")
    assert all(entry.kind == "file" or entry.kind in UNUSABLE for entry in entries)
    assert sum(entry.size for entry in entries) <= len(content)


def test_an_inner_tar_is_read_within_its_member() -> None:
    inner = tar_of({"1.jpg": b"one", "2.jpg": b"two"})
    outer = tar_of({"n01.tar": inner, "n02.tar": inner[:1300], "z.txt": b"z"})
    reader, names = TarReader(io.BytesIO(outer), "whole.tar"), []
    for entry in reader:
        if entry.name.endswith(".tar"):
            try:
                for image in TarReader(reader.stream, entry.name, entry.offset, entry.size):
                    names.append(image.name)
                    assert outer[image.offset : image.offset + image.size] in (b"one", b"two")
            except TarError as error:
                names.append(str(error))
        else:
            names.append(entry.name)
    breaks_off = "n02.tar is not a readable tar (it breaks off at byte "
    assert names[:3] == ["1.jpg", "2.jpg", "1.jpg"] and names[3].startswith(breaks_off) and names[4:] == ["z.txt"]


def test_names_in_messages_cannot_move_the_cursor_or_fill_the_screen() -> None:
    assert printable("caf\u00e9 \u5927 v1.jpg") == "caf\u00e9 \u5927 v1.jpg"
    assert printable("a\x1b[2J\r\n\t\x9b\u202e") == "a\\x1b[2J\\r\\n\\t\\x9b\\u202e"
    assert printable("caf\udce9") == "caf\\xe9"
    assert len(printable("x" * 10**6)) == MAX_PRINTED + 3
