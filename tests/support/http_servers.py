"""HTTP servers on this machine: one that serves a folder, and one with answers defined by a test."""

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.files import retries
from tests.support.tiny_run import TinyData


class CountingHandler(http.server.SimpleHTTPRequestHandler):
    """A handler that serves a folder and records which shards were requested."""

    fetched: list[str]

    def do_GET(self) -> None:
        if self.path.endswith(".tar"):
            self.fetched.append(self.path)
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def serving(handler: type[CountingHandler], folder: Path) -> Iterator[str]:
    """Yield the URL of a folder that is served until the block ends."""
    CountingHandler.fetched = []
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, functools.partial(handler, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


class Hostile:
    """A server of given responses: path -> (status, headers, body); a body of None never ends."""

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
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.0)
    server = Hostile()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def served(hostile: Hostile, tiny_data: TinyData) -> Hostile:
    """Return a server of the folder `pairs`."""
    for path in (tiny_data.folder / "pairs").iterdir():
        if path.is_file():
            hostile.answers[f"/pairs/{path.name}"] = (200, {}, path.read_bytes())
    return hostile


def changed_index(served: Hostile, **changes: Any) -> None:
    index = json.loads(served.answers["/pairs/index.json"][2] or b"")
    served.answers["/pairs/index.json"] = (200, {}, json.dumps(index | changes).encode())


@pytest.fixture
def server(tiny_data: TinyData) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of the data and the list of shards that were fetched from it."""
    with serving(CountingHandler, tiny_data.folder) as url:
        yield url, CountingHandler.fetched
