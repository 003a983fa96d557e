"""What libraries print while a run starts goes to RUN/startup.log, so that the first screen is the run's own.

The file descriptors are redirected, since compilers, NCCL and DeepSpeed's launcher print past Python. What we print, an
uncaught exception and the stack of a fatal signal still reach the terminal.
"""

import ctypes
import faulthandler
import os
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pretrain.survival import console

STARTUP_LOG_NAME = "startup.log"
_path: Path | None = None
_made: list[Path] = []
"""Folders that were made for the file, innermost first."""


def begin_startup(run_dir: Path) -> None:
    """Redirect standard output and standard error to the file, until `end_startup`. Called before torch is imported.

    If the file cannot be written, nothing is redirected: the start reports that in a sentence of its own.
    """
    global _path, _made
    path, rank = run_dir / STARTUP_LOG_NAME, os.environ.get("RANK", "0")
    begins = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} rank {rank} on {socket.gethostname()}, process {os.getpid()}\n"
    try:
        missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
        run_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)  # all ranks append to it
        os.write(file, begins.encode())
    except OSError:
        return
    if rank == "0":
        console.say(f"starting {run_dir}; what libraries print meanwhile is in {path}")
    _flush()
    try:
        streams = _copy_of(sys.stdout, 1), _copy_of(sys.stderr, 2)
    except OSError:  # standard output is closed, so that there is nothing to keep clear
        os.close(file)
        return
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)
    console.divert(streams)
    faulthandler.enable(streams[1])
    sys.excepthook = _print_uncaught
    _path, _made = path, missing


def forget_startup() -> None:
    """Remove the file, and the folders made for it, if a mistake was found before there was anything of a run in them.

    Other ranks do the same; whoever comes last finds the folders empty.
    """
    if _path is not None and _made and not (_path.parent / "checkpoints").exists():
        with suppress(OSError):
            _path.unlink(missing_ok=True)
            for folder in _made:
                folder.rmdir()


def end_startup() -> None:
    """Give standard output and standard error back to everything that prints."""
    global _path
    if _path is None:
        return
    _flush()
    streams = console.standard_output(), console.standard_error()
    for stream, descriptor in zip(streams, (1, 2), strict=True):
        assert stream is not None
        os.dup2(stream.fileno(), descriptor)
    console.divert(None)
    faulthandler.enable(2)
    sys.excepthook = sys.__excepthook__
    _path = None


def place_of_startup_log() -> str:
    """Return a sentence on where the output of libraries is, empty if it is not redirected."""
    return "" if _path is None else f"what libraries printed meanwhile is in {_path}"


def _copy_of(stream: TextIO, descriptor: int) -> TextIO:
    """Return a stream on the place that a descriptor has now, kept until the process ends."""
    encoding = stream.encoding if stream is not None else None
    return open(os.dup(descriptor), "w", buffering=1, encoding=encoding)


def _flush() -> None:
    """Write out what Python and C hold back, before the descriptors change their places."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    console.warn("".join(traceback.format_exception(kind, error, trace)) + place_of_startup_log())
