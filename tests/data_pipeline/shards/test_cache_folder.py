"""Files that others plant in the cache of remote shards are not used, followed or written to.

Tests with two users need root; the users are forked processes with other user ids. All payloads are harmless.
"""

import multiprocessing
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from data_pipeline.loading.config import DataConfig
from data_pipeline.shards.cache import ShardCache
from tests.data_pipeline.shards.test_cache import (
    SHARD_BYTES,
    TIMEOUT_SECONDS,
    Remote,
    content,
    folder,  # noqa: F401
    names_in,
    read,
    remote,  # noqa: F401
    sha256,
    shard_files,
)

ALICE, MALLORY, GROUP = 54321, 54322, 54320
EVIL = bytes(SHARD_BYTES)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to play two users")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can write to, like /tmp."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def as_user(user: int, action: Callable[[], object]) -> str:
    """Act in a process of a user in GROUP. Returns the error, empty if there was none."""
    context = multiprocessing.get_context("fork")
    errors = context.SimpleQueue()

    def run() -> None:
        os.setgroups([GROUP])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.umask(0o077)
        try:
            action()
            errors.put("")
        except Exception as error:
            errors.put(f"{type(error).__name__}: {error}")

    process = context.Process(target=run)
    process.start()
    process.join(TIMEOUT_SECONDS / 2)
    assert process.exitcode == 0
    return errors.get()


def check(cache: ShardCache, url: str) -> None:
    assert read(cache, url) == content(url.rpartition("/")[2])


def test_a_foreign_file_named_by_a_checksum_is_not_used(remote: Remote, folder: Path) -> None:  # noqa: F811
    folder.mkdir(mode=0o700)
    (folder / f"{sha256('a')}.shard").write_bytes(EVIL)
    check(ShardCache(folder, 2 * SHARD_BYTES), f"{remote.url}/a")
    assert remote.requests == ["/a"] and names_in(folder) == shard_files("a")
    assert (folder / f"{sha256('a')}.shard").read_bytes() == content("a")


@pytest.mark.parametrize("how", ["replaced", "replaced by a sealed one", "changed in place", "truncated", "unsealed"])
def test_a_file_swapped_after_verification_is_fetched_again(how: str, remote: Remote, folder: Path) -> None:  # noqa: F811
    cache = ShardCache(folder, 3 * SHARD_BYTES)
    check(cache, f"{remote.url}/a")
    check(cache, f"{remote.url}/b")
    shard, status = folder / f"{sha256('a')}.shard", (folder / f"{sha256('a')}.shard").stat()
    if how == "replaced":
        (folder / "evil").write_bytes(EVIL)
        os.utime(folder / "evil", ns=(status.st_atime_ns, status.st_mtime_ns))
        (folder / "evil").rename(shard)
    elif how == "replaced by a sealed one":
        for suffix in ("shard", "seal"):
            (folder / f"{sha256('b')}.{suffix}").rename(folder / f"{sha256('a')}.{suffix}")
    elif how == "changed in place":
        with shard.open("r+b") as file:
            file.write(b"evil")
    elif how == "truncated":
        os.truncate(shard, SHARD_BYTES - 1)
    else:
        shard.with_suffix(".seal").unlink()
    check(cache, f"{remote.url}/a")
    check(cache, f"{remote.url}/a")
    assert remote.requests == ["/a", "/b", "/a"]


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "symlink": lambda path, victim: path.symlink_to(victim),
    "symlink to nothing": lambda path, victim: path.symlink_to(victim.with_name("new")),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "pipe": lambda path, victim: os.mkfifo(path),
    "socket": lambda path, victim: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", [f"{sha256('a')}.partial", f"{sha256('a')}.shard", f"{sha256('a')}.seal", "lock"])
def test_a_link_pipe_or_socket_in_the_cache_is_removed_and_never_followed(
    name: str,
    kind: str,
    remote: Remote,  # noqa: F811
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder.mkdir(mode=0o700)
    monkeypatch.chdir(folder)  # a socket's path must be short
    PLANTED[kind](Path(name) if kind == "socket" else folder / name, victim)
    check(ShardCache(folder, 2 * SHARD_BYTES), f"{remote.url}/a")
    assert victim.read_text() == "precious" and not victim.with_name("new").exists()
    assert remote.requests == ["/a"] and names_in(folder) == shard_files("a")
    assert all(stat.S_ISREG(path.lstat().st_mode) and path.stat().st_nlink == 1 for path in folder.iterdir())


@pytest.mark.parametrize("suffix", ["partial", "shard", "seal"])
def test_a_folder_in_place_of_a_file_is_named(suffix: str, remote: Remote, folder: Path) -> None:  # noqa: F811
    (folder / f"{sha256('a')}.{suffix}").mkdir(parents=True)
    with pytest.raises(OSError, match=rf"{sha256('a')}.{suffix} is a folder where the cache needs a file; remove it"):
        ShardCache(folder, 2 * SHARD_BYTES).fetch(f"{remote.url}/a", SHARD_BYTES, sha256("a"))


def test_a_cache_folder_that_is_a_link_or_writable_to_others_is_refused(folder: Path) -> None:  # noqa: F811
    real = folder.with_name("real")
    real.mkdir()
    folder.symlink_to(real)
    with pytest.raises(OSError, match=f"cache folder {folder} is a symbolic link; give the path of a folder"):
        ShardCache(folder, SHARD_BYTES).check_folder()
    for mode, for_group in ((0o770, False), (0o707, False), (0o777, False), (0o777, True), (0o750, True)):
        real.chmod(mode)
        with pytest.raises(PermissionError, match=f"cache folder {real} has mode 0{mode:o}, .*chmod 2?7.0 it"):
            ShardCache(real, SHARD_BYTES, for_group).check_folder()
    assert not list(real.iterdir())


def test_a_new_cache_is_its_users_alone(remote: Remote, folder: Path) -> None:  # noqa: F811
    check(ShardCache(folder, SHARD_BYTES), f"{remote.url}/a")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert DataConfig.cache_folder.name == f"imglish_shards-{os.getuid()}"


@needs_root
def test_the_folder_of_another_owner_is_refused_and_each_user_has_one_of_his_own(
    remote: Remote,  # noqa: F811
    public: Path,
) -> None:
    def use(user: int) -> str:
        return as_user(user, lambda: check(ShardCache(public / f"cache-{user}", SHARD_BYTES), f"{remote.url}/a"))

    squatted = public / f"cache-{ALICE}"
    assert as_user(MALLORY, lambda: squatted.mkdir(mode=0o777)) == ""
    assert use(ALICE) == (
        f"OSError: cache folder {squatted} belongs to user {MALLORY}, not to you; "
        "give a folder of your own, or data.cache_for_group"
    )
    squatted.rmdir()
    assert use(ALICE) == use(MALLORY) == ""
    assert remote.requests == ["/a", "/a"]


@pytest.fixture
def shared(public: Path) -> Path:
    """A cache for GROUP."""
    path = public / "shared"
    path.mkdir()
    os.chown(path, 0, GROUP)
    path.chmod(0o2770)
    return path


@needs_root
def test_a_group_shares_the_shards_of_each_member_within_one_bound(remote: Remote, shared: Path) -> None:  # noqa: F811
    cache = ShardCache(shared, 2 * SHARD_BYTES, for_group=True)
    for user, name in ((ALICE, "a"), (MALLORY, "a"), (MALLORY, "b"), (ALICE, "b"), (ALICE, "c"), (MALLORY, "c")):
        assert as_user(user, partial(check, cache, f"{remote.url}/{name}")) == ""
    assert remote.requests == ["/a", "/b", "/c"]
    assert names_in(shared) == shard_files("b", "c")
    status = (shared / f"{sha256('c')}.shard").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (ALICE, GROUP, 0o640)


@needs_root
def test_a_group_member_cannot_plant_a_shard_or_have_a_file_of_another_overwritten(
    remote: Remote,  # noqa: F811
    shared: Path,
    public: Path,
) -> None:
    cache, victim = ShardCache(shared, 4 * SHARD_BYTES, for_group=True), public / "victim"

    def plant() -> None:
        os.umask(0)
        (shared / f"{sha256('a')}.shard").write_bytes(EVIL)
        (shared / f"{sha256('a')}.seal").write_text("sealed")
        (shared / f"{sha256('a')}.partial").symlink_to(victim)
        (shared / f"{sha256('b')}.partial").write_bytes(EVIL)
        (shared / "lock").symlink_to(victim)

    assert as_user(ALICE, lambda: victim.write_text("precious")) == ""
    assert as_user(MALLORY, plant) == ""
    for name in "ab":
        assert as_user(ALICE, partial(check, cache, f"{remote.url}/{name}")) == ""
    assert victim.read_text() == "precious"
    assert names_in(shared) == shard_files("a", "b")
    assert {path.stat().st_uid for path in shared.iterdir()} == {ALICE}
