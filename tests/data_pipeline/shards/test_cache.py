"""The cache of remote shards, against a real HTTP server. Run as a module, this file reads through the cache."""

import contextlib
import errno
import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_pipeline.files import remote_files, retries
from data_pipeline.files.remote_files import NUM_ATTEMPTS, read_remote_file
from data_pipeline.shards import cache as shard_cache
from data_pipeline.shards.cache import ShardCache
from tests.support.launch import Ended, RankProcess, run_ranks

SHARD_BYTES = 200_000


TIMEOUT_SECONDS = 60


def content(name: str) -> bytes:
    return random.Random(name).randbytes(SHARD_BYTES)


def sha256(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


def read(cache: ShardCache, url: str) -> bytes:
    """Return the cached bytes of a shard, whose name is the end of the URL's path."""
    descriptor = cache.open(url, SHARD_BYTES, sha256(url.rpartition("/")[2].partition("?")[0]))
    try:
        return os.pread(descriptor, 2 * SHARD_BYTES, 0)
    finally:
        os.close(descriptor)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


class Remote:
    """A web server that has every shard and misbehaves on demand."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.statuses: list[int] = []
        """Statuses of the next responses; 200 after them."""
        self.tell_length = True
        self.num_stalls = 0
        """Number of responses that stop halfway until resume is set."""
        self.num_cuts = 0
        """Number of responses that end halfway."""
        self.num_stalled = 0
        self.resume = threading.Event()
        remote = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # keeps connections open

            def do_GET(self) -> None:
                remote.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        body = content(request.path.strip("/").partition("?")[0])
        request.send_response(self.statuses.pop(0) if self.statuses else 200)
        if self.tell_length:
            request.send_header("Content-Length", str(len(body)))
        else:
            request.send_header("Connection", "close")
        request.end_headers()
        request.wfile.write(body[: SHARD_BYTES // 2])
        if self.num_cuts > 0:
            self.num_cuts -= 1
            request.close_connection = True
            return
        if self.num_stalls > 0:
            self.num_stalls -= 1
            self.num_stalled += 1
            self.resume.wait(TIMEOUT_SECONDS)
        with contextlib.suppress(ConnectionError):  # a client that is dead or no longer waits
            request.wfile.write(body[SHARD_BYTES // 2 :])

    def close(self) -> None:
        self.resume.set()
        self.server.shutdown()
        self.server.server_close()


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
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.0)
    server = Remote()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".seal"} - {"lock"}


def shard_files(*names: str) -> set[str]:
    return {f"{sha256(name)}.shard" for name in names}


def run_readers(
    num_ranks: int,
    folder: Path,
    num_shards_of_room: int,
    urls: list[str],
    while_running: Callable[[list[RankProcess]], None] | None = None,
) -> Ended:
    """Start processes that each read all URLs, from different starts."""
    return run_ranks(
        num_ranks,
        "tests.data_pipeline.shards.test_cache",
        ["read", folder, num_shards_of_room * SHARD_BYTES, *urls],
        timeout_seconds=TIMEOUT_SECONDS,
        while_running=while_running,
    )


def all_started(folder: Path, num_ranks: int) -> bool:
    return all(folder.with_name(f"started-{rank}").exists() for rank in range(num_ranks))


def test_a_remote_shard_is_downloaded_once_and_has_its_bytes(remote: Remote, folder: Path) -> None:
    cache = ShardCache(folder, 3 * SHARD_BYTES)
    cache.fetch(f"{remote.url}/a", SHARD_BYTES, sha256("a"))
    for _ in range(3):
        assert read(cache, f"{remote.url}/a") == content("a")
    assert remote.requests == ["/a"]
    assert names_in(folder) == shard_files("a")
    assert read_remote_file(f"{remote.url}/index.json") == content("index.json")


def test_the_descriptor_is_read_only(remote: Remote, folder: Path) -> None:
    for _ in ("downloaded", "found"):
        descriptor = ShardCache(folder, SHARD_BYTES).open(f"{remote.url}/a", SHARD_BYTES, sha256("a"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)


def test_processes_that_want_the_same_shard_download_it_once(remote: Remote, folder: Path) -> None:
    remote.num_stalls = 1  # so that all of them ask before it is there

    def release(processes: list[RankProcess]) -> None:
        wait_for(lambda: all_started(folder, 4) and remote.num_stalled == 1)
        remote.resume.set()

    ended = run_readers(4, folder, 2, [f"{remote.url}/a"], release)
    assert ended.exit_codes == [0] * 4, ended.stderr
    assert len(remote.requests) == 1
    assert names_in(folder) == shard_files("a")


def test_a_download_that_is_killed_is_taken_over_by_who_waits_for_it(remote: Remote, folder: Path) -> None:
    remote.num_stalls = 1

    def kill(processes: list[RankProcess]) -> None:
        wait_for(lambda: all_started(folder, 2) and remote.num_stalled == 1)
        processes[int(remote.requests[0].rpartition("=")[2])].send_signal(signal.SIGKILL)

    ended = run_readers(2, folder, 2, [f"{remote.url}/a"], kill)
    assert sorted(ended.exit_codes) == [-signal.SIGKILL, 0], ended.stderr
    assert len(remote.requests) == 2
    assert names_in(folder) == shard_files("a")


@pytest.mark.parametrize("next_shard", ["a", "b"])
def test_a_killed_download_leaves_no_shard_and_takes_no_room(next_shard: str, remote: Remote, folder: Path) -> None:
    remote.num_stalls = 1

    def kill(processes: list[RankProcess]) -> None:
        wait_for(lambda: remote.num_stalled == 1)
        processes[0].send_signal(signal.SIGKILL)

    run_readers(1, folder, 1, [f"{remote.url}/a"], kill)
    assert names_in(folder) == {f"{sha256('a')}.partial"}
    assert (folder / f"{sha256('a')}.partial").stat().st_size == SHARD_BYTES
    cache = ShardCache(folder, SHARD_BYTES)
    assert read(cache, f"{remote.url}/{next_shard}") == content(next_shard)
    assert names_in(folder) == shard_files(next_shard)
    assert read(cache, f"{remote.url}/a") == content("a")


def test_the_bound_holds_at_all_times(remote: Remote, folder: Path) -> None:
    sums = []

    def files() -> list[tuple[str, int, int]] | None:
        try:
            statuses = [(e.name, e.stat()) for e in os.scandir(folder) if not e.name.endswith(".seal")]
        except FileNotFoundError:  # renamed meanwhile
            return None
        return sorted((name, status.st_ino, status.st_size) for name, status in statuses)

    def watch(processes: list[RankProcess]) -> None:
        while any(process.poll() is None for process in processes):
            before, after = files(), files()
            if before is not None and before == after:  # else they were seen at different moments
                sums.append(sum(size for _, _, size in before))
            time.sleep(0.001)

    ended = run_readers(4, folder, 3, [f"{remote.url}/shard{number}" for number in range(12)], watch)
    assert ended.exit_codes == [0] * 4, ended.stderr
    assert max(sums) == 3 * SHARD_BYTES
    assert len(names_in(folder)) == 3
    assert len(remote.requests) >= 12


def test_threads_share_a_cache_with_room_for_one_shard(remote: Remote, folder: Path) -> None:
    cache = ShardCache(folder, SHARD_BYTES)
    num_right = itertools.count()

    def read_all() -> None:
        for name in "abcabc":
            if read(cache, f"{remote.url}/{name}") == content(name):
                next(num_right)

    threads = [threading.Thread(target=read_all, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert next(num_right) == 4 * 6
    assert len(names_in(folder)) == 1


def test_the_least_recently_used_shard_is_evicted_and_stays_readable_to_who_has_it_open(
    remote: Remote, folder: Path
) -> None:
    cache = ShardCache(folder, 2 * SHARD_BYTES + 1)
    read(cache, f"{remote.url}/a")
    open_b = cache.open(f"{remote.url}/b", SHARD_BYTES, sha256("b"))
    read(cache, f"{remote.url}/a")
    read(cache, f"{remote.url}/c")
    assert names_in(folder) == shard_files("a", "c")
    assert os.pread(open_b, SHARD_BYTES, 0) == content("b")
    os.close(open_b)
    read(cache, f"{remote.url}/b")
    assert remote.requests == ["/a", "/b", "/c", "/b"]


def test_only_files_of_the_cache_are_evicted(remote: Remote, folder: Path) -> None:
    cache = ShardCache(folder, SHARD_BYTES)
    folder.mkdir()
    for name in ("mine.tar", "mine.shard", "mine.partial", f"{sha256('a')}.tar"):
        (folder / name).write_bytes(bytes(SHARD_BYTES))
    mine = names_in(folder)
    read(cache, f"{remote.url}/a")
    read(cache, f"{remote.url}/b")
    assert names_in(folder) == mine | shard_files("b")


def test_a_shard_that_can_never_fit_is_refused(remote: Remote, folder: Path) -> None:
    cache = ShardCache(folder, SHARD_BYTES - 1)
    with pytest.raises(ValueError, match=f"/a of {SHARD_BYTES} bytes exceeds data.cache_bytes {SHARD_BYTES - 1}; rais"):
        cache.fetch(f"{remote.url}/a", SHARD_BYTES, sha256("a"))
    assert remote.requests == []


@pytest.mark.parametrize(("num_bytes", "checksum"), [(0, sha256("a")), (5, "../../x"), (5, sha256("a").upper())])
def test_an_index_that_describes_no_shard_is_refused(num_bytes: int, checksum: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="index its folder again"):
        ShardCache(folder, SHARD_BYTES).fetch("http://127.0.0.1/a", num_bytes, checksum)


def test_a_full_disk_evicts_more_and_is_reported_once_nothing_is_left(
    remote: Remote, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_on_disk = 2

    def allocate(descriptor: int, offset: int, num_bytes: int) -> None:
        if (
            sum(path.stat().st_size for path in folder.iterdir() if path.suffix != ".seal") + num_bytes
            > shards_on_disk * SHARD_BYTES
        ):
            raise OSError(errno.ENOSPC, "No space left on device")
        os.truncate(descriptor, num_bytes)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    cache = ShardCache(folder, 10 * SHARD_BYTES)
    for name in "abc":
        assert read(cache, f"{remote.url}/{name}") == content(name)
    assert names_in(folder) == shard_files("b", "c")
    shards_on_disk = 0
    with pytest.raises(OSError, match="the disk lacks .*; free some") as raised:
        read(cache, f"{remote.url}/d")
    assert raised.value.errno == errno.ENOSPC
    assert names_in(folder) == set()


def test_a_server_that_fails_twice_is_asked_again(remote: Remote, folder: Path) -> None:
    remote.statuses = [503, 500, 200, 429, 503]
    assert read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a") == content("a")
    assert read_remote_file(f"{remote.url}/b") == content("b")
    assert remote.requests == ["/a"] * 3 + ["/b"] * 3


def test_a_server_that_keeps_failing_ends_in_an_error_that_names_it(remote: Remote, folder: Path) -> None:
    remote.statuses = [503] * 2 * NUM_ATTEMPTS
    with pytest.raises(OSError, match=f"{remote.url}/a failed {NUM_ATTEMPTS} times, at last by .*503"):
        read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a")
    with pytest.raises(OSError, match=f"{remote.url}/index.json failed {NUM_ATTEMPTS} times, at last by .*503"):
        read_remote_file(f"{remote.url}/index.json")
    assert len(remote.requests) == 2 * NUM_ATTEMPTS
    assert names_in(folder) == set()


def test_a_server_that_is_away_ends_in_an_error_that_names_it(remote: Remote, folder: Path) -> None:
    remote.close()
    with pytest.raises(OSError, match=f"{remote.url}/a failed {NUM_ATTEMPTS} times"):
        read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(404, FileNotFoundError, "does not exist"), (403, PermissionError, "may not be read")],
)
def test_a_request_that_cannot_succeed_is_not_retried(
    status: int, kind: type[OSError], words: str, remote: Remote, folder: Path
) -> None:
    remote.statuses = [status, status]
    with pytest.raises(kind, match=f"{remote.url}/a {words}"):
        read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a")
    with pytest.raises(kind, match=f"{remote.url}/index.json {words}"):
        read_remote_file(f"{remote.url}/index.json")
    assert len(remote.requests) == 2
    assert names_in(folder) == set()


@pytest.mark.parametrize("tell_length", [True, False])
def test_a_transfer_that_is_cut_is_tried_again(tell_length: bool, remote: Remote, folder: Path) -> None:
    remote.tell_length = tell_length
    remote.num_cuts = 2
    assert read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a") == content("a")
    assert len(remote.requests) == 3


def test_a_connection_that_falls_silent_is_tried_again(
    remote: Remote, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "STALL_SECONDS", 0.5)
    remote.num_stalls = 1
    assert read(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a") == content("a")
    assert len(remote.requests) == 2


@pytest.mark.parametrize(
    ("num_bytes", "checksum"),
    [(SHARD_BYTES, sha256("b")), (SHARD_BYTES + 1, sha256("a")), (SHARD_BYTES - 1, sha256("a"))],
    ids=["other bytes", "shorter", "longer"],
)
def test_a_shard_that_differs_from_its_index_is_an_error(
    num_bytes: int, checksum: str, remote: Remote, folder: Path
) -> None:
    with pytest.raises(OSError, match=f"{remote.url}/a failed .* it differs from its index.*; restore it or index"):
        ShardCache(folder, 2 * SHARD_BYTES).fetch(f"{remote.url}/a", num_bytes, checksum)
    assert len(remote.requests) == NUM_ATTEMPTS
    assert names_in(folder) == set()


def test_a_shard_longer_than_in_its_index_never_outgrows_its_room(remote: Remote, tmp_path: Path) -> None:
    with (tmp_path / "shard").open("wb") as file, pytest.raises(OSError, match="differs from its index"):
        shard_cache._download(f"{remote.url}/a", SHARD_BYTES // 4, sha256("a"), file.fileno())
    assert (tmp_path / "shard").stat().st_size <= SHARD_BYTES // 4


def test_a_parent_its_forked_children_and_again_the_parent_can_use_it(remote: Remote, folder: Path) -> None:
    urls = [f"{remote.url}/{name}" for name in "abcd"]
    ended = run_ranks(
        1,
        "tests.data_pipeline.shards.test_cache",
        ["fork", folder, 4 * SHARD_BYTES, *urls],
        timeout_seconds=TIMEOUT_SECONDS,
    )
    assert ended.exit_codes == [0], ended.stderr
    assert sorted(remote.requests) == ["/a", "/b", "/c", "/d"]
    assert names_in(folder) == shard_files("b", "c", "d")


def check(cache: ShardCache, url: str) -> None:
    assert read(cache, url) == content(url.rpartition("/")[2].partition("?")[0])


def main(mode: str, folder: Path, max_bytes: int, urls: list[str]) -> None:
    cache = ShardCache(folder, max_bytes)
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if mode == "fork":
        read_remote_file(urls[0])  # as training reads an index; the server keeps the connection open
        children = [multiprocessing.get_context("fork").Process(target=check, args=(cache, url)) for url in urls[1:-1]]
        for child in children:
            child.start()
        for child in children:
            child.join(TIMEOUT_SECONDS / 4)
            child.kill()
        assert [child.exitcode for child in children] == [0] * len(children)
        check(cache, urls[-1])
        return
    folder.with_name(f"started-{rank}").touch()
    start = rank * len(urls) // world_size
    for url in urls[start:] + urls[:start]:
        check(cache, f"{url}?rank={rank}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
