"""Files behind URLs, through fsspec: which may be read, and reading, listing and copying them with retries."""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "hf": "huggingface_hub",
}
REMOTE_PROTOCOLS = tuple(_PACKAGES)
"""Those that only read bytes: nothing that runs a command, nothing that chains others ("::")."""

NUM_ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5

T = TypeVar("T")


def is_remote(location: str) -> bool:
    """Whether this is an allowed URL; False for a plain path. Raises ValueError for any other URL."""
    if "://" not in location and not re.match(r"[\w+.-]+:", location):
        return False
    protocol, _, rest = location.partition("://")
    if protocol not in REMOTE_PROTOCOLS or not rest or "::" in rest:
        raise ValueError(
            f"location {location!r} is neither a path nor a plain URL of {', '.join(REMOTE_PROTOCOLS)}; "
            "correct it, or write ./ before a relative path with a colon"
        )
    return True


def read_remote_file(url: str) -> bytes:
    """The content of a small file. Raises OSError, naming the URL, where it cannot be had."""

    def read() -> bytes:
        filesystem, path = open_filesystem(url)
        return bytes(filesystem.cat_file(path))

    return with_retries(url, read)


def list_remote_files(url: str) -> list[str]:
    """Names of the files below a URL, relative to it. Raises OSError if they cannot be listed."""

    def find() -> list[str]:
        filesystem, root = open_filesystem(url.rstrip("/"))
        found = filesystem.find(root)
        return sorted(path.removeprefix(root).lstrip("/") for path in found)

    return with_retries(url, find)


def remote_origin(url: str) -> str:
    """What tells a remote file from what it was: URL, size, and whatever the store says of its version."""

    def ask() -> str:
        filesystem, path = open_filesystem(url)
        info = filesystem.info(path)
        version = [str(info[name]) for name in ("ETag", "etag", "LastModified", "mtime", "updated") if name in info]
        return " ".join([url, str(info.get("size")), *version])

    return with_retries(url, ask)


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A copy of a remote file, removed at the end. Raises OSError where it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / url.rpartition("/")[2]

        def copy() -> None:
            filesystem, remote = open_filesystem(url)
            filesystem.get_file(remote, str(path))

        with_retries(url, copy)
        yield path


def open_filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem of the URL and the path in it, for one use: one that outlives a fork can hang."""
    import fsspec  # type: ignore[import-untyped]

    return fsspec.core.url_to_fs(url, skip_instance_cache=True)


def _require_packages(url: str) -> None:
    """Raises ValueError where this URL cannot be read."""
    if not is_remote(url):
        raise ValueError(f"{url!r} is a local path; read it where it lies")
    protocol = url.partition("://")[0]
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:  # ValueError: a protocol that only its package makes known
        packages = f"fsspec {_PACKAGES[protocol]}"
        raise ValueError(f"{url} cannot be read without the packages {packages}; pip install {packages}") from error


def with_retries(url: str, action: Callable[[], T]) -> T:
    """What the action gives. Raises OSError once it has failed NUM_ATTEMPTS times or cannot succeed."""
    _require_packages(url)
    failure: Exception | None = None
    for attempt in range(NUM_ATTEMPTS):
        if attempt > 0:
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            return action()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url} does not exist; restore it or correct the location") from error
        except Exception as error:
            if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
                raise PermissionError(f"{url} may not be read ({error}); check the credentials of this node") from error
            failure = error
    raise OSError(f"{url} failed {NUM_ATTEMPTS} times, at last by {type(failure).__name__}: {failure}") from failure
