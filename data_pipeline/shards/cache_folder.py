"""A folder for files that processes share by name, in which other users of the machine cannot plant files.

It belongs to this user and nobody else may write to it, so its files are this user's. With for_group=True the members
of its group may write to it too, and any file can be another member's: files are opened without following links or
waiting for pipes, only own regular files are written to, and the caller verifies the content of others.

All files are opened relative to a descriptor of the folder that was checked, so that the folder cannot be replaced in
between.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags that follow no symbolic link and do not wait for the other end of a pipe."""


class CacheFolder:
    """An open folder, whose files are given by name, never by path."""

    def __init__(self, path: Path, descriptor: int, for_group: bool):
        self.path, self.descriptor, self.for_group = path, descriptor, for_group

    def open(self, name: str) -> int | None:
        """Return a read-only descriptor of a regular file, or None. Anything else of that name is removed."""
        try:
            descriptor = os.open(name, os.O_RDONLY | _SAFELY, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):  # a link, a socket, unreadable
                raise
            self.remove(name)
            return None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        self.remove(name)
        return None

    def remove(self, name: str) -> None:
        """Remove a name, whatever it is. Raises OSError, naming the path, for a folder."""
        try:
            os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            pass
        except IsADirectoryError as error:
            raise OSError(f"{self.path / name} is a folder where the cache needs a file; remove it") from error

    def rename(self, name: str, new_name: str) -> None:
        os.rename(name, new_name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Write a new file in place of whatever had that name."""
        self.remove(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY
        with os.fdopen(os.open(name, flags, self._mode, dir_fd=self.descriptor), "wb") as file:
            self._open_to_group(file.fileno())
            file.write(content)

    def files(self) -> list[tuple[str, os.stat_result]]:
        """Return names and status of the regular files, without links."""
        found = []
        with os.scandir(self.descriptor) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        return found

    @contextlib.contextmanager
    def locked(self, name: str, flags: int = 0) -> Iterator[int]:
        """Yield a descriptor of the file, created if needed, under its exclusive lock, which ends with the process.

        The file is this user's and can be written to; an unlocked file of another user is replaced.
        """
        while True:
            descriptor = self._open_for_lock(name)
            if descriptor is None:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
                if not self._is_at(name, descriptor):  # the previous holder renamed or removed it
                    continue
                if not _is_own(os.fstat(descriptor)):
                    self.remove(name)
                    continue
                yield descriptor
                return
            finally:
                # closing is not enough if a forked child inherited the descriptor
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)

    def _open_for_lock(self, name: str) -> int | None:
        """Open an own file to write, another's to read. Returns None for anything else, which is removed."""
        try:
            flags = os.O_RDWR | os.O_CREAT | _SAFELY
            descriptor = os.open(name, flags, self._mode, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno == errno.EISDIR:
                self.remove(name)  # raises
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EACCES):
                raise
            return self.open(name)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            self.remove(name)
            return None
        if _is_own(status):
            self._open_to_group(descriptor)
        return descriptor

    @property
    def _mode(self) -> int:
        return 0o640 if self.for_group else 0o600

    def _open_to_group(self, descriptor: int) -> None:
        """Let the group read a file, whatever the umask, but never write: what was verified must not change."""
        if self.for_group:
            os.fchmod(descriptor, self._mode)

    def _is_at(self, name: str, descriptor: int) -> bool:
        try:
            there = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


@contextlib.contextmanager
def opened_folder(path: Path, for_group: bool = False) -> Iterator[CacheFolder]:
    """Yield the folder, created if needed. Raises OSError, in a sentence, if others could plant files in it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
            if for_group:
                os.chmod(path, 0o2770)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFELY)
    except OSError as error:
        problem = f"cannot be opened ({error.strerror}); give another"
        if path.is_symlink():
            problem = "is a symbolic link; give the path of a folder"
        elif error.errno == errno.EACCES and path.is_dir():
            problem = _problem(path.lstat(), for_group) or problem
        raise OSError(f"cache folder {path} {problem}") from error
    try:
        problem = _problem(os.fstat(descriptor), for_group)
        if problem:
            raise PermissionError(f"cache folder {path} {problem}")
        yield CacheFolder(path, descriptor, for_group)
    finally:
        os.close(descriptor)


def _problem(status: os.stat_result, for_group: bool) -> str:
    """Return what is wrong with a folder, and the remedy; empty if nothing is."""
    mode = stat.S_IMODE(status.st_mode)
    if for_group:
        if mode & 0o007 or not mode & 0o020:
            return f"has mode {mode:04o}, and a group's cache must be writable to its group alone; chmod 2770 it"
        return ""
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to you; give a folder of your own, or data.cache_for_group"
    if mode & 0o022:
        return f"has mode {mode:04o}, so that other users can write to it; chmod 700 it once you know all its files"
    return ""


def _is_own(status: os.stat_result) -> bool:
    """Return whether a file is this user's and has no second name: a hard link would make us write to another file."""
    return status.st_uid == os.geteuid() and status.st_nlink <= 1
