"""Servers and indexes that nobody vouches for, against a real HTTP server; and secrets that no message may repeat."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.check_shards import CheckOptions, check_shards
from data_pipeline.files import http_client, remote_files
from data_pipeline.files.remote_files import (
    NUM_ATTEMPTS,
    is_remote,
    list_remote_files,
    local_copy,
    public_url,
    read_remote_file,
    without_secrets,
)
from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.loading.config import DataConfig, SamplesPerStep, parse_source
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import read_index
from tests.support.tiny_run import TinyData

NPY_HEADER = np.lib.format.magic(1, 0) + b"\x76\x00"
SECRETS = ("hunter2", "s3cr3t", "AKIA1234")


class Hostile:
    """A server of a few answers: path -> (status, headers, body); a body of None never ends."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes | None]] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hostile.answer(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that hangs up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(path)
        self.headers.append(dict(request.headers))
        status, headers, body = self.answers.get(path, (404, {}, b""))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        request.wfile.write(body or b"")
        while body is None:
            request.wfile.write(bytes(1 << 16))


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.0)
    server = Hostile()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def served(hostile: Hostile, tiny_data: TinyData) -> Hostile:
    """A server of the folder `pairs`."""
    for path in (tiny_data.folder / "pairs").iterdir():
        if path.is_file():
            hostile.answers[f"/pairs/{path.name}"] = (200, {}, path.read_bytes())
    return hostile


def changed_index(served: Hostile, **changes: Any) -> None:
    index = json.loads(served.answers["/pairs/index.json"][2] or b"")
    served.answers["/pairs/index.json"] = (200, {}, json.dumps(index | changes).encode())


def test_an_index_that_never_ends_is_refused_at_its_bound(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "MAX_ANSWER_BYTES", 1 << 20)
    hostile.answers["/x/index.json"] = (200, {}, None)
    with pytest.raises(OSError, match=f"{hostile.url}/x/index.json is refused: .* sends more than 1048576 bytes"):
        read_remote_file(f"{hostile.url}/x/index.json")
    assert len(hostile.requests) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_compressed_answer_is_neither_asked_for_nor_taken(encoding: str, hostile: Hostile) -> None:
    hostile.answers["/index.json"] = (200, {"Content-Encoding": encoding}, gzip.compress(bytes(1 << 24)))
    with pytest.raises(OSError, match=f"is refused: the server sends it with Content-Encoding '{encoding}', unasked"):
        read_remote_file(f"{hostile.url}/index.json")
    assert [headers["Accept-Encoding"] for headers in hostile.headers] == ["identity"]


def test_a_compressed_shard_is_not_decompressed(served: Hostile, tmp_path: Path) -> None:
    index = read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
    name = index.shards[0].name
    content = served.answers[f"/pairs/{name}"][2] or b""
    served.answers[f"/pairs/{name}"] = (200, {"Content-Encoding": "gzip"}, gzip.compress(content))
    with pytest.raises(OSError, match="differs from its index"):
        shard = index.shards[0]
        ShardCache(tmp_path / "cache", 10**8).fetch(f"{served.url}/pairs/{name}", shard.num_bytes, shard.sha256)


@pytest.mark.parametrize("target", ["http://localhost:{port}/secret", "https://127.0.0.1:{port}/secret", "//evil/x"])
def test_a_redirect_to_another_server_is_refused(target: str, hostile: Hostile) -> None:
    location = target.format(port=hostile.server.server_port)
    hostile.answers |= {"/a": (302, {"Location": location}, b""), "/secret": (200, {}, b"secret")}
    with pytest.raises(OSError, match=f"{hostile.url}/a is refused: the server redirects to .*, another one"):
        read_remote_file(f"{hostile.url}/a")
    assert hostile.requests == ["/a"]


def test_a_redirect_within_the_server_is_followed(hostile: Hostile) -> None:
    hostile.answers |= {"/a": (301, {"Location": "/b"}, b""), "/b": (200, {}, b"content")}
    assert read_remote_file(f"{hostile.url}/a") == b"content"


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
    hostile.answers = {"/told": (200, {"Content-Length": "1000"}, None), "/untold": (200, {}, None)}
    # it depends on the moment if the client sees that more was sent
    with contextlib.suppress(OSError), local_copy(f"{hostile.url}/told") as path:
        assert path.stat().st_size == 1000
    with pytest.raises(OSError, match="is refused: the server sends more than the 1048576 bytes expected"):
        local_copy(f"{hostile.url}/untold").__enter__()


@pytest.mark.parametrize(
    "elsewhere",
    [
        *("/etc", "../pairs", "file:///etc", "http://169.254.169.254/latest", "s3://bucket/x", "{url}/pairsecret"),
        *("{url}", "{url}/pairs/../secret", "{url}/pairs/a/%2E%2e/../b", "{url}/pairs/%2e./secret"),
    ],
)
def test_a_remote_index_names_no_shards_outside_of_its_own_url(elsewhere: str, served: Hostile, tmp_path: Path) -> None:
    changed_index(served, shard_folder=elsewhere.format(url=served.url))
    with pytest.raises(
        ValueError, match=f"the index of {served.url}/pairs names shards elsewhere, in .*index that loc"
    ):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
    assert served.requests == ["/pairs/index.json"]


@pytest.mark.parametrize("name", ["../0.tar", "a/%2e%2E/0.tar", "/0.tar", "http://other/0.tar", "..\\0.tar"])
def test_a_remote_index_names_no_shard_outside_of_its_folder(name: str, served: Hostile, tmp_path: Path) -> None:
    shards = json.loads(served.answers["/pairs/index.json"][2] or b"")["shards"]
    changed_index(served, shards=[shard | {"name": name} for shard in shards])
    with pytest.raises(ValueError, match="lies outside of its folder; do not trust where this comes from"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))


def test_a_damaged_remote_index_is_told_without_its_password(served: Hostile, tmp_path: Path) -> None:
    index = json.loads(served.answers["/pairs/index.json"][2] or b"")
    changed_index(served, shards=[shard | {"num_bytes": 1} for shard in index["shards"]])
    url = f"{served.url}/pairs".replace("://", "://user:QQQ@")
    with pytest.raises(ValueError, match=r"the index of http://\*\*\*@.*/pairs is damaged \(the image of") as raised:
        read_index(url, ShardCache(tmp_path / "cache", 10**8))
    assert "QQQ" not in str(raised.value)
    result = check_shards(CheckOptions(url, cache_folder=tmp_path / "cache"))
    assert [problem.partition(" (")[0] for problem in result.damaged] == [
        f"the index of {url.replace('user:QQQ', '***')} is damaged"
    ]


def test_a_remote_index_may_name_its_own_url_and_what_lies_below(served: Hostile, tmp_path: Path) -> None:
    for folder in (f"{served.url}/pairs", f"{served.url}/pairs/", f"{served.url}/pairs/below"):
        changed_index(served, shard_folder=folder)
        assert read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8)).folder == folder


@pytest.mark.parametrize("location", ["file:///etc", "memory://x", "file::s3://bucket/x", "pipe:cat /etc/passwd"])
def test_a_local_index_names_no_url_of_another_kind(location: str, tiny_data: TinyData, tmp_path: Path) -> None:
    shutil.copytree(tiny_data.folder / "pairs", tmp_path / "pairs")
    path = tmp_path / "pairs" / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shard_folder": location}))
    with pytest.raises(ValueError, match="is neither a path nor a plain URL of"):
        read_index(tmp_path / "pairs")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 10**30},
        {"num_samples": -1},
        {"records_bytes": 2**63},
        {"text_length": -(10**18)},
        {"skipped": {"reason": 10**40}},
        {"records_sha256": "x" * 64},
        {"shards": [{"name": "0.tar", "num_samples": 2**60, "num_bytes": 2**70, "sha256": "0" * 64}]},
        {"shards": [{"name": "0.tar", "num_samples": 1, "num_bytes": 1, "sha256": "../../x"}]},
        {"records": "../samples-0123456789abcdef.npy"},
    ],
)
def test_absurd_numbers_in_an_index_are_refused(changes: dict[str, Any], served: Hostile, tmp_path: Path) -> None:
    changed_index(served, **changes)
    with pytest.raises(ValueError, match=f"the index of {served.url}/pairs is damaged .*; index the folder again"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))
    assert served.requests == ["/pairs/index.json"]


@pytest.mark.parametrize(
    "records",
    [
        NPY_HEADER + b"{'descr': '|O', 'fortran_order': False, 'shape': (5,), }".ljust(117) + b"\n",
        NPY_HEADER + b"{'descr': '<i8', 'fortran_order': False, 'shape': (999999999,), }".ljust(117) + b"\n",
        NPY_HEADER + b"(" * 118,
        np.lib.format.magic(3, 0) + bytes(200),
        b"nothing",
    ],
)
def test_records_that_are_no_records_are_refused(records: bytes, served: Hostile, tmp_path: Path) -> None:
    checksum = hashlib.sha256(records).hexdigest()
    changed_index(served, records_bytes=len(records), records_sha256=checksum)
    name = json.loads(served.answers["/pairs/index.json"][2] or b"")["records"]
    served.answers[f"/pairs/{name}"] = (200, {}, records)
    with pytest.raises(ValueError, match=f"the index of {served.url}/pairs is damaged .*; index the folder again"):
        read_index(f"{served.url}/pairs", ShardCache(tmp_path / "cache", 10**8))


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


def refusals(url: str, tmp_path: Path) -> Iterator[str]:
    """Messages of all that reads a URL."""
    cache = ShardCache(tmp_path / "cache", 10**6)
    data = DataConfig(images=(url,), num_lanes=1, cache_folder=tmp_path / "cache")
    actions = [
        lambda: read_remote_file(url),
        lambda: list_remote_files(url),
        lambda: local_copy(url).__enter__(),
        lambda: cache.fetch(url, 5, "0" * 64),
        lambda: cache.fetch(url, 10**9, "0" * 64),
        lambda: cache.fetch(url, 0, "0" * 64),
        lambda: read_index(url),
        lambda: read_index(url, cache),
        lambda: index_shards(IndexOptions("pair", url)),
        lambda: index_shards(IndexOptions("pair", url, out=tmp_path / "index")),
        lambda: check_shards(CheckOptions(url, cache_folder=tmp_path / "cache")),
        lambda: StepDataset(data, SamplesPerStep(1, 0, 0), 8, 0),
        lambda: parse_source(f"{url}=-1"),
        lambda: is_remote(url.replace("http", "gopher")),
    ]
    for action in actions:
        with pytest.raises((ValueError, OSError)) as raised:
            action()
        error: BaseException | None = raised.value
        while error is not None:  # what a traceback would print
            yield str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("status", [403, 404, 500, 302])
def test_no_message_repeats_a_password_or_a_signature(status: int, hostile: Hostile, tmp_path: Path) -> None:
    class Always(dict[str, tuple[int, dict[str, str], bytes | None]]):
        def get(self, path: str, default: object = None) -> Any:
            return status, {"Location": "http://user:hunter2@evil/?sig=s3cr3t"}, b""

    hostile.answers = Always()
    with_secrets = hostile.url.replace("http://", "http://user:hunter2@") + "/x?X-Amz-Signature=s3cr3t&id=AKIA1234"
    messages = list(refusals(with_secrets, tmp_path))
    assert len(messages) >= 14
    assert not [message for message in messages if any(secret in message for secret in SECRETS)]
    assert sum("***@127.0.0.1" in message for message in messages) >= 10


def test_reports_and_figures_of_a_run_name_its_sources_without_their_passwords(
    served: Hostile, tiny_data: TinyData, tmp_path: Path
) -> None:
    url = f"{served.url.replace('http://', 'http://user:hunter2@')}/pairs"
    data = DataConfig(
        pairs=(url,),
        text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
        num_lanes=1,
        cache_folder=tmp_path / "cache",
    )
    dataset = StepDataset(data, SamplesPerStep(0, 4, 0), 32, 0)
    assert not dataset[0].failure
    said = [*dataset.describe(), json.dumps(dataset.seen(5)), dataset.name("pair", 0, 3)]
    assert not [text for text in said if "hunter2" in text] and all("***@127.0.0.1" in text for text in said)
    assert all("Authorization" in headers for headers in served.headers)
    assert NUM_ATTEMPTS and not [name for name in os.listdir(tmp_path / "cache") if "hunter2" in name]
