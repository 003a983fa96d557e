"""Text in several encodings, and bytes that are not text. CPU, seconds."""

import tarfile
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.sources import text_lines
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.readers import SourceOptions, read_records
from data_pipeline.sources.text_lines import LongLine, is_tar, open_text


def documents(path: Path) -> list[Record]:
    return list(read_records("text", str(path), SourceOptions()))


def test_a_byte_order_mark_is_not_text_and_a_lone_carriage_return_does_not_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\rstill one\r\ntwo\n")
    with open_text(tmp_path / "a.txt") as lines:
        assert [line.strip() for line in lines] == ["one\rstill one", "two"]


def test_invalid_utf_8_becomes_lone_surrogates_and_a_replacement_character_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("caf\ufffd\n".encode() + b"caf\xe9\n")
    with open_text(tmp_path / "a.txt") as lines:
        assert list(lines) == ["caf\ufffd\n", "caf\udce9\n"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-16-le", "utf-32-be"])
def test_an_encoding_is_recognized_by_its_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    (tmp_path / "a.txt").write_bytes((mark + "caf\xe9 \U0001f600\nzwei\n").encode(encoding))
    assert [record.text for record in documents(tmp_path / "a.txt")] == ["caf\xe9 \U0001f600", "zwei"]


def test_utf_16_that_breaks_off_is_one_bad_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\ntwo\nthree \U0001f600".encode("utf-16")[:-1])
    found = [str(record.text) for record in documents(tmp_path / "a.txt")]
    assert found[:2] == ["one", "two"] and found[2].startswith("three ") and found[2].endswith("\udcff")


BINARY = {
    "a PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "a PNG image": b"\x89PNG\r\n\x1a\n",
    "a ZIP archive": b"PK\x03\x04 xlsx",
    "byte 12 is NUL": "utf-16".encode("utf-16-le") + bytes(4),
    "byte 1 is NUL": "without a mark\n".encode("utf-16-le"),
    "control characters": bytes(range(1, 256)) * 4,
}


@pytest.mark.parametrize("form", BINARY)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "wiki_00"])
def test_binary_files_are_refused_alone_and_counted_in_a_folder(form: str, name: str, tmp_path: Path) -> None:
    content = BINARY[form] if form != "byte 12 is NUL" else b"text and NUL" + bytes(1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedFileError, match=f"{name} is not text \\({form}\\)"):
        documents(tmp_path / name)
    if name.startswith("a.t") or name == "wiki_00":
        (tmp_path / "good").write_text("a good document")
        texts = {record.name: (record.text, record.problem) for record in documents(tmp_path)}
        if name != "a.tsv":
            assert texts.pop(name) == (None, f"file is not text ({form})")
            assert texts == {"good/00000000": ("a good document", None)}


def test_a_tar_without_a_magic_number_is_recognized_by_its_checksum() -> None:
    member = tarfile.TarInfo("a.txt")
    header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    assert is_tar(bytes(header))
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert is_tar(bytes(header)) and not is_tar(b"text " * 200) and not is_tar(b"0" * 600)


def test_an_endless_line_is_skipped_and_a_file_of_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_lines, "LONGEST_LINE", 1000)
    monkeypatch.setattr(text_lines, "LONGEST_SKIPPED_LINE", 100_000)
    path = tmp_path / "a.txt"
    path.write_text("one\n" + "x" * 1000 + "\n" + "y" * 50_000 + "\ntwo\n" + "z" * 999 + "\n")
    with open_text(path) as lines:
        found = list(lines)
    assert [isinstance(line, LongLine) for line in found] == [False, True, True, False, False]
    assert [record.text for record in documents(path) if not record.problem] == ["one", "two", "z" * 999]
    assert [record.place for record in documents(path) if record.problem] == [f"{path}:2", f"{path}:3"]
    path.write_text("x" * 200_000)
    with pytest.raises(RefusedFileError, match="line 1 is longer than 100000 characters"):
        documents(path)


def test_an_endless_line_of_a_table_or_of_json_is_one_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LONGEST_LINE", 1000)
    endless = "x" * 50_000
    (tmp_path / "a.csv").write_text(f"image,caption\na.jpg,one\nb.jpg,{endless}\nc.jpg,three\n")
    (tmp_path / "a.tsv").write_text(f"image\tcaption\na.jpg\tone\nb.jpg\t{endless}\nc.jpg\tthree\n")
    lines = "".join(f'{{"image": "a.jpg", "caption": "{caption}"}}\n' for caption in ("one", endless, "three"))
    (tmp_path / "a.jsonl").write_text(lines)
    for name, line in (("a.csv", 3), ("a.tsv", 3), ("a.jsonl", 2)):
        found = list(read_records("pair", str(tmp_path / name), SourceOptions()))
        assert [record.text for record in found] == ["one", None, "three"]
        assert found[1].place == f"{tmp_path / name}:{line}" and "longer than" in str(found[1].problem)
