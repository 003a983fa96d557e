"""URLs that are read and refused, URLs in messages, and bounds on listings and copies."""

import contextlib
import hashlib
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.files import remote_files
from data_pipeline.files.remote_files import (
    REMOTE_PROTOCOLS,
    is_remote,
    list_remote_files,
    local_copy,
    public_url,
    read_remote_file,
    without_secrets,
)
from data_pipeline.shards.cache import ShardCache
from tests.support.http_servers import Hostile


def test_a_listing_without_end_is_refused(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(dict[str, tuple[int, dict[str, str], bytes | None]]):
        def get(self, path: str, default: object = None) -> Any:
            return 200, {"Content-Type": "text/html"}, b'<a href="a/">a</a><a href="b/">b</a><a href="x.tar">x</a>'

    monkeypatch.setattr(remote_files, "MAX_FOLDERS", 20)
    hostile.answers = Endless()
    with pytest.raises(OSError, match="is refused: the server lists more than 20 folders"):
        list_remote_files(f"{hostile.url}/shards")
    assert len(hostile.requests) < 200


def test_a_copy_is_never_longer_than_announced(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "MAX_UNSIZED_BYTES", 1 << 20)
    hostile.answers = {"/sized": (200, {"Content-Length": "1000"}, None), "/unsized": (200, {}, None)}
    # whether the client sees the surplus depends on timing
    with contextlib.suppress(OSError), local_copy(f"{hostile.url}/sized") as path:
        assert path.stat().st_size == 1000
    with pytest.raises(OSError, match="is refused: the server sends more than the 1048576 bytes expected"):
        local_copy(f"{hostile.url}/unsized").__enter__()


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:hunter2@host/x", "https://***@host/x"),
        ("https://hunter2@host:80/x", "https://***@host:80/x"),
        ("https://user:hun/ter2@host/x", "https://***@host/x"),
        ("https://user:hunter2", "https://user:***"),
        ("https://user:h@unter2@[::1]:80/x", "https://***@[::1]:80/x"),
        ("https://host/x?X-Amz-Signature=s3cr3t&y=1", "https://host/x?***"),
        ("https://host?sig=s3cr3t", "https://host?***"),
        ("https://host/x#s3cr3t", "https://host/x#***"),
        ("s3://AKIA1234:s3cr3t@bucket/x", "s3://***@bucket/x"),
        ("ftp://user:hunter2@host/x", "ftp://***@host/x"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("https://[::1]:80/x", "https://[::1]:80/x"),
        ("https://user:12/34@host/x", "https://***@host/x"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("/data/a:b@c?d", "/data/a:b@c?d"),
    ],
)
def test_a_location_is_shown_without_passwords_and_signatures(location: str, shown: str) -> None:
    assert public_url(location) == shown
    assert without_secrets(f"403, url='{location}', again {location}") == f"403, url='{shown}', again {shown}"
    assert public_url(shown) == shown


@given(st.text(st.characters(codec="ascii", exclude_characters=" '\"<>\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f"), max_size=30))
def test_no_password_whatever_its_characters_is_shown(password: str) -> None:
    location = f"https://user:{password}QQQ@host/x"
    if "?" not in password and "#" not in password:
        assert public_url(location) == "https://***@host/x"
    assert "QQQ" not in public_url(location) and "QQQ" not in without_secrets(f"at {location}: no")


SHARD_BYTES = 200_000


TIMEOUT_SECONDS = 60


def content(name: str) -> bytes:
    return random.Random(name).randbytes(SHARD_BYTES)


def sha256(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    def fail(number: int, frame: object) -> None:
        pytest.fail(f"hangs for {TIMEOUT_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(TIMEOUT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".seal"} - {"lock"}


@pytest.mark.parametrize("protocol", REMOTE_PROTOCOLS)
def test_urls_of_stores_are_remote(protocol: str) -> None:
    assert is_remote(f"{protocol}://bucket/shards")


@pytest.mark.parametrize("path", ["shards", "/data/shards", "../shards", "/data/12:30", "./a:b", "~/x", ""])
def test_paths_are_not_remote(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize(
    "location",
    [
        "pipe:cat /etc/passwd",
        "python://x",
        "file::s3://bucket/x",
        "simplecache::s3://bucket/x",
        "s3://bucket/x::file:///etc/passwd",
        "memory://x",
        "file:///etc/passwd",
        "reference://x",
        "foo://x",
        "S3://bucket/x",
        "s3:/bucket/x",
        "s3://",
        "x/pipe://y",
    ],
)
def test_any_other_url_is_refused(location: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="neither a path nor a plain URL of s3, .*; correct it"):
        is_remote(location)
    with pytest.raises(ValueError, match="neither a path nor a plain URL"):
        read_remote_file(location)
    with pytest.raises(ValueError, match="neither a path nor a plain URL"):
        ShardCache(folder, SHARD_BYTES).fetch(location, SHARD_BYTES, sha256("a"))
    assert names_in(folder) == set()


@pytest.mark.parametrize(
    ("url", "absent", "packages"),
    [
        ("s3://bucket/x", "s3fs", "fsspec s3fs"),
        ("abfss://bucket/x", "adlfs", "fsspec adlfs"),
        ("http://host/x", "fsspec", "fsspec aiohttp"),
    ],
)
def test_an_absent_package_is_named(url: str, absent: str, packages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ValueError, match=f"{url} cannot be read without .*; pip install {packages}"):
        read_remote_file(url)
