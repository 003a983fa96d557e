"""Responses of untrusted servers, from a real HTTP server."""

import gzip
from pathlib import Path

import pytest

from data_pipeline.files import http_client
from data_pipeline.files.remote_files import (
    read_remote_file,
)
from data_pipeline.shards.cache import ShardCache
from data_pipeline.shards.index import read_index
from tests.support.http_servers import Hostile


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
