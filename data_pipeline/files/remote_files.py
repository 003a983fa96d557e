"""Files at URLs, through fsspec: which URLs may be read, and reading, listing and copying with retries."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_pipeline.files.http_client import MAX_ANSWER_BYTES, RefusedError, client_options
from data_pipeline.files.retries import with_retries

_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("az", "abfs", "abfss"), "adlfs"),
    "hf": "huggingface_hub",
}
REMOTE_PROTOCOLS = tuple(_PACKAGES)
"""Protocols that only read bytes: none that runs a command or chains others ("::")."""

NUM_ATTEMPTS = 5
STALL_SECONDS = 60.0
"""Silence after which an HTTP connection counts as failed; other protocols have their own limits."""
MAX_UNSIZED_BYTES = 64 << 30
"""Maximum size of a shard from a store that does not report sizes."""
MAX_FOLDERS, MAX_DEPTH = 10_000, 32
"""Limits of a listing over HTTP, where a server could make up links without end."""
MAX_QUOTED = 500
"""Characters that are quoted of a library's message: some repeat the server's response."""
_CHUNK_BYTES = 1 << 23


def is_remote(location: str) -> bool:
    """Return True for an allowed URL and False for a plain path. Raises ValueError for any other URL."""
    if "://" not in location and not re.match(r"[\w+.-]+:", location):
        return False
    protocol, _, rest = location.partition("://")
    if protocol not in REMOTE_PROTOCOLS or not rest or "::" in rest:
        raise ValueError(
            f"location {public_url(location)!r} is neither a path nor a plain URL of {', '.join(REMOTE_PROTOCOLS)}; "
            "correct it, or write ./ before a relative path with a colon"
        )
    return True


def public_url(location: str) -> str:
    """Return a location as messages and logs may show it: without passwords, and without the query, which may be a
    signature. For HTTP also without the user name, which may be a token; other protocols have containers there."""
    protocol, separator, rest = location.partition("://")
    if not separator:
        return location
    place, query, _ = re.match(r"([^?#]*)([?#]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    authority, slash, path = place.partition("/")
    is_http = protocol.endswith(("http", "https"))
    if is_http and ":" in authority and "@" in path:  # a password with a slash: rather show too little
        authority, slash, path = place, "", ""
    user, at, host = authority.rpartition("@")
    if at and (":" in user or is_http):
        authority = f"***@{host}"
    elif not re.fullmatch(r"([^:]*|\[[^]]*\])(:[0-9]+)?", host):  # half a password
        authority = f"{host.partition(':')[0]}:***"
    return f"{protocol}://{authority}{slash}{path}{query and query + '***'}"


def without_secrets(text: object) -> str:
    """Return a library's message as one short line, with URLs as `public_url` shows them."""
    shown = re.sub(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+", lambda found: public_url(found[0]), str(text))
    shown = "".join(character if character.isprintable() else " " for character in shown)
    return shown if len(shown) <= MAX_QUOTED else f"{shown[:MAX_QUOTED]}..."


def read_remote_file(url: str) -> bytes:
    """Return the content of a small file. Raises OSError, naming the URL, if it cannot be read or is too large."""

    def read() -> bytes:
        filesystem, path = open_filesystem(url)
        if "http" in filesystem.protocol:  # one request; the client bounds the answer
            return bytes(filesystem.cat_file(path))
        with filesystem.open(path, "rb", cache_type="none") as file:
            content = bytes(file.read(MAX_ANSWER_BYTES + 1))
        if len(content) > MAX_ANSWER_BYTES:
            raise RefusedError(f"it has more than {MAX_ANSWER_BYTES} bytes")
        return content

    return with_retries(read, RemoteErrors(url))


def list_remote_files(url: str) -> list[str]:
    """Return the files below a URL, as sorted relative paths. Raises OSError if they cannot be listed."""

    def find() -> list[str]:
        filesystem, root = open_filesystem(url.rstrip("/"))
        found = _walk(filesystem, root) if "http" in filesystem.protocol else filesystem.find(root)
        return sorted(path.removeprefix(root).lstrip("/") for path in found)

    return with_retries(find, RemoteErrors(url))


def _walk(filesystem: Any, root: str) -> list[str]:
    found: list[str] = []
    for number, (_, _, files) in enumerate(filesystem.walk(root, MAX_DEPTH, on_error="raise", detail=True)):
        if number >= MAX_FOLDERS:
            raise RefusedError(f"the server lists more than {MAX_FOLDERS} folders")
        found += [info["name"] for info in files.values()]
    return found


def remote_origin(url: str) -> str:
    """Return URL, size and version of a remote file, as far as the store reports them. They change with the file."""

    def ask() -> str:
        filesystem, path = open_filesystem(url)
        info = filesystem.info(path)
        version = [str(info[name]) for name in ("ETag", "etag", "LastModified", "mtime", "updated") if name in info]
        return " ".join([public_url(url), str(info.get("size")), *version])

    return with_retries(ask, RemoteErrors(url))


@contextlib.contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """Yield a temporary copy of a remote file. Raises OSError if it cannot be read or is longer than announced."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / public_url(url).rpartition("/")[2][-200:]

        def copy() -> None:
            filesystem, remote_path = open_filesystem(url)
            size = filesystem.info(remote_path).get("size")
            with path.open("wb") as local:
                for chunk in remote_chunks(url, size):
                    local.write(chunk)
                    if local.tell() > (MAX_UNSIZED_BYTES if size is None else size):
                        raise RefusedError(f"the server sends more than the {size or MAX_UNSIZED_BYTES} bytes expected")
            if size is not None and path.stat().st_size != size:
                raise OSError(f"received {path.stat().st_size} of {size} bytes")

        with_retries(copy, RemoteErrors(url))
        yield path


def remote_chunks(url: str, size: int | None) -> Iterator[bytes]:
    """Yield the content of a remote file, which may have no end: the caller has to stop. size: None if unknown."""
    filesystem, path = open_filesystem(url)
    options: dict[str, Any] = {"cache_type": "none"}  # one request per chunk, nothing read ahead
    if "http" in filesystem.protocol:  # a single request: not every server supports ranges
        from aiohttp import ClientTimeout

        # by default aiohttp allows 5 minutes in total, and any silence in between
        silence = ClientTimeout(total=None, sock_connect=STALL_SECONDS, sock_read=STALL_SECONDS)
        # without a size, fsspec would request it
        options = {"block_size": 0, "size": size or MAX_UNSIZED_BYTES, "timeout": silence}
    remote: IO[bytes]
    with filesystem.open(path, "rb", **options) as remote:
        while chunk := remote.read(_CHUNK_BYTES):
            yield chunk


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it, for a single use: a connection that outlives a fork can hang."""
    import fsspec  # type: ignore[import-untyped]

    is_http = url.partition("://")[0] in ("http", "https")
    options = {"client_kwargs": client_options()} if is_http else {}
    return fsspec.core.url_to_fs(url, skip_instance_cache=True, **options)


def _require_packages(url: str) -> None:
    """Raise ValueError if the URL is a local path or its packages are not installed."""
    if not is_remote(url):
        raise ValueError(f"{url!r} is a local path; read it where it lies")
    protocol = url.partition("://")[0]
    try:
        import fsspec

        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:  # ValueError: a protocol that its package registers
        packages = f"fsspec {_PACKAGES[protocol]}"
        raise ValueError(
            f"{public_url(url)} cannot be read without the packages {packages}; pip install {packages}"
        ) from error


class RemoteErrors:
    """The retry policy for one URL: everything is retried but a missing file, a refusal and a lack of rights.

    Errors are reported without their secrets, in one sentence that names the URL.
    """

    num_attempts = NUM_ATTEMPTS

    def __init__(self, url: str):
        """Raise ValueError if this URL cannot be read, whatever the network does."""
        _require_packages(url)
        self.shown = public_url(url)

    def final_error(self, error: Exception, is_last: bool) -> Exception | None:
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(f"{self.shown} does not exist; restore it or correct the location")
        reason = without_secrets(error)
        if isinstance(error, RefusedError):
            return OSError(f"{self.shown} is refused: {reason}")
        if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
            return PermissionError(f"{self.shown} may not be read ({reason}); check the credentials of this node")
        if is_last:
            return OSError(f"{self.shown} failed {NUM_ATTEMPTS} times, at last by {type(error).__name__}: {reason}")
        return None
