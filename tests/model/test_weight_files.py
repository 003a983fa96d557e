"""Weight files are data: attacks, damage, and files of other kinds. CPU, seconds."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from model.weight_files import MAX_JSON_BYTES, is_safetensors, read_json_object, read_safetensors, read_torch_file
from tests.support.crafted import ATTACKS
from tests.support.unreadable import forbidden


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_file_executes_anything_or_takes_all_memory(
    name: str, suffix: str, is_mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, marker = tmp_path / f"file{suffix}", tmp_path / "executed"
    ATTACKS[name](path, marker)
    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **named: marker.touch())
    before, start = psutil.Process().memory_info().vms, time.monotonic()
    with pytest.raises(ValueError, match=str(path)) as error:
        read_torch_file(path, is_mapped=is_mapped)
    assert not marker.exists()
    assert len(str(error.value).splitlines()) == 1
    assert psutil.Process().memory_info().vms - before < 1 << 30 and time.monotonic() - start < 60
    with pytest.raises(ValueError, match=str(path)):
        read_safetensors(path)
    assert not marker.exists()


def lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def cut(path: Path) -> None:
    torch.save({"weight": torch.zeros(10_000)}, path)
    path.write_bytes(path.read_bytes()[:-5000])


WRONG_FILES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.touch(), "is empty; copy it again"),
    (lfs, "is a git-LFS pointer, not the file itself; run git lfs pull"),
    (lambda path: path.write_text("\n<!DOCTYPE html><html>404"), r"is a web page \(HTML\), not weights; download"),
    (lambda path: path.write_text("Not found\n"), "is text, not weights; use the file itself"),
    (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "is compressed; unpack it"),
    (lambda path: path.write_bytes(b"\x93NUMPY\x01" + bytes(600)), "is cut off, damaged or not a weight file"),
    (lambda path: path.write_bytes(b"\x80\x04]\x94." + bytes(600)), "is a pickle that torch.save did not write"),
    (cut, "is cut off or damaged"),
    (lambda path: path.mkdir(), "is a folder; use a file"),
    (lambda path: os.mkfifo(path), "is not a regular file; use a file"),
    (lambda path: path.symlink_to("/dev/zero"), "is not a regular file; use a file"),
]


@pytest.mark.parametrize(("write", "message"), WRONG_FILES, ids=[message[:20] for _, message in WRONG_FILES])
def test_the_error_names_what_the_file_is_instead(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ValueError, match=f"^{path} {message}"):
        read_torch_file(path)
    with pytest.raises(ValueError, match=f"^{path} "):
        read_safetensors(path)


def test_an_unreadable_file_is_not_reported_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    for read in (read_torch_file, read_safetensors, read_json_object):
        with forbidden(path), pytest.raises(PermissionError, match=str(path)):
            read(path)


def test_tensors_come_back_mapped_or_not_and_from_before_torch_1_6(tmp_path: Path) -> None:
    state = {"a": torch.randn(5, 3), "b": {"c": [torch.arange(4), torch.nn.Parameter(torch.ones(2)), torch.Size([3])]}}
    for is_new in (True, False):
        path = tmp_path / f"{is_new}.pt"
        torch.save(state, path, _use_new_zipfile_serialization=is_new)
        for is_mapped in (False, True):
            read = read_torch_file(path, is_mapped=is_mapped)
            assert torch.equal(read["a"], state["a"])  # type: ignore[arg-type]
            assert torch.equal(read["b"]["c"][0], torch.arange(4)) and read["b"]["c"][2] == torch.Size([3])


def safetensors(header: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


@pytest.mark.parametrize("size", [0x80, 0x8080, 1000])
def test_safetensors_are_recognized_whatever_the_length_of_their_header(size: int, tmp_path: Path) -> None:
    """The first byte of a file is that of its length: 0x80 for one header in 32, as that of a pickle."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(b"{}".ljust(size)))
    assert is_safetensors(path) and read_safetensors(path) == {}
    with pytest.raises(ValueError, match="is a safetensors file; give its folder if pretrain.convert wrote it"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors(b"{", 1 << 62), "its header has 4611686018427387904 bytes, more than"),
        (safetensors(b"{" + b" " * 100, 90), "is cut off or damaged"),
        (safetensors(b'{"a":' * 3000), "is cut off or damaged"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}', None, bytes(8)), "is cut off or dam"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,8]}}', None, bytes(8)), "is cut"),
        (safetensors(b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}', None, bytes(8)), "is cut off or dama"),
    ],
    ids=["size", "cut header", "nested", "cut data", "large shape", "dtype"],
)
def test_headers_of_safetensors_that_lie_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, "is not valid JSON"),
        (b'{"a":' * 200_000, r"is not valid JSON \(it is nested too deeply\)|is not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not valid JSON"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b"5", "does not hold a JSON object"),
        (b"{}" + b" " * MAX_JSON_BYTES, "is larger than"),
    ],
    ids=["list", "object", "number", "encoding", "scalar", "size"],
)
def test_json_bombs_are_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_json_object(tmp_path / "config.json")
