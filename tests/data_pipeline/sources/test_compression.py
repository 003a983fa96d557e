"""Compressed files, whole, truncated and corrupt. CPU, seconds."""

import bz2
import errno
import gzip
import io
import lzma
import os
import struct
from pathlib import Path

import pytest
import zstandard

from data_pipeline.sources.compression import decompressed
from data_pipeline.sources.entries import RefusedFileError
from data_pipeline.sources.text_lines import open_text

TEXT = b"first\nsecond\n" * 100_000
COMPRESSED = {
    ".gz": gzip.compress(TEXT),
    ".bz2": bz2.compress(TEXT),
    ".xz": lzma.compress(TEXT),
    ".zst": zstandard.compress(TEXT),
}


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compressed_text_is_read_and_refused_by_name_if_truncated_or_corrupt(suffix: str, tmp_path: Path) -> None:
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
    compressor = zstandard.ZstdCompressor(compression_params=long).compressobj()  # without the size of the text
    frame = compressor.compress(TEXT) + compressor.flush()
    skipped = struct.pack("<II", 0x184D2A50, 4) + b"pzst"
    (tmp_path / "a.txt.zst").write_bytes(skipped + frame + skipped + frame)
    with open_text(tmp_path / "a.txt.zst") as lines:
        assert "".join(lines).encode() == TEXT * 2


def test_a_failing_disk_is_not_taken_for_a_corrupt_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), open_text(tmp_path) as lines:
        list(lines)


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_compression_is_recognized_by_the_first_bytes_whatever_the_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(COMPRESSED[suffix]))
    with open_text(path) as lines:
        assert "".join(lines).encode() == TEXT
    path.write_bytes(COMPRESSED[suffix][:-3])
    with pytest.raises(RefusedFileError, match="a.txt breaks off or is corrupt"), open_text(path) as lines:
        list(lines)


def test_a_text_that_begins_as_bzip2_does_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("BZh9 is how bzip2 begins\n")
    with open_text(tmp_path / "a.txt") as lines:
        assert list(lines) == ["BZh9 is how bzip2 begins\n"]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(RefusedFileError, match="is not a regular file"), open_text(tmp_path / "a.txt"):
        pass


def test_a_failing_disk_is_reported_with_the_name_of_the_file(tmp_path: Path) -> None:
    class Failing(io.RawIOBase):
        """Imitates a disk."""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match=r"^/raw/a.txt cannot be read \(Input/output error\); ") as raised:
        decompressed(io.BufferedReader(Failing()), "a.txt.gz", "/raw/a.txt").read()
    assert raised.value.errno == errno.EIO
