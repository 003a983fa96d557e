"""Printing that cannot fail: a full disk or a closed terminal must not end a run.

On a terminal a run has one live line at the bottom, which is painted over and over. Messages are printed above it.
While a run starts, what libraries print goes to a file (startup_log.py), and `divert` gives the terminal to us alone.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from data_pipeline.samples.sample import printable_lines

LOCK_SECONDS = 2.0
"""Longest wait for another thread that prints: it may wait for the terminal, and a rank that ends must not."""
DEFAULT_COLUMNS = 80

_lock = threading.RLock()
_diverted: tuple[TextIO, TextIO] | None = None
_live_text = ""
_paint: Callable[[str], None] | None = None


def say(text: str) -> None:
    """Print on standard output."""
    _print(text, standard_output())


def warn(text: str) -> None:
    """Print on the process's standard error, even while sys.stderr is redirected."""
    _print(text, standard_error())


def standard_error() -> TextIO | None:
    """Return the stream that `warn` prints on."""
    return sys.__stderr__ if _diverted is None else _diverted[1]


def standard_output() -> TextIO | None:
    """Return the stream that `say` prints on."""
    return sys.stdout if _diverted is None else _diverted[0]


def divert(streams: tuple[TextIO, TextIO] | None) -> None:
    """Print on these streams instead of standard output and standard error; None: on those again."""
    global _diverted
    with _held():
        _diverted = streams


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    stream = standard_output()
    with suppress(OSError, ValueError):
        return stream is not None and stream.isatty()
    return False


def num_columns() -> int:
    """Return the width of the terminal."""
    stream = standard_output()
    with suppress(OSError, ValueError):
        return os.get_terminal_size(-1 if stream is None else stream.fileno()).columns or DEFAULT_COLUMNS
    return DEFAULT_COLUMNS


def show_live(text: str) -> None:
    """Paint the live line; text: shorter than the terminal is wide. Only on a terminal."""
    global _live_text, _paint
    from tqdm import tqdm  # here: not every command has a live line

    with _held(), suppress(OSError, ValueError):
        _paint = _paint or tqdm.status_printer(standard_output())
        _live_text = text
        _paint(text)


def end_live() -> None:
    """Leave the live line as it is; what is printed now follows below it."""
    global _live_text, _paint
    with _held(), suppress(OSError, ValueError):
        if _paint is not None:
            _paint = None
            _live_text = ""
            print(file=standard_output(), flush=True)


@contextmanager
def _held() -> Iterator[None]:
    """Hold the lock, or go on without it if another thread holds it for too long: better a torn line than none."""
    is_held = _lock.acquire(timeout=LOCK_SECONDS)
    try:
        yield
    finally:
        if is_held:
            _lock.release()


def _print(text: str, stream: TextIO | None) -> None:
    shown = printable_lines(text)
    with _held(), suppress(OSError, ValueError):  # ValueError: it is closed
        if _paint is not None:
            _paint("")
            print(end="\r", file=standard_output(), flush=True)
        try:
            print(shown, file=stream, flush=True)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            print(shown.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
        if _paint is not None:
            _paint(_live_text)


def _forget_in_child() -> None:
    """Give a forked process, such as a loader worker, a lock that nobody holds, and no live line."""
    global _lock, _live_text, _paint
    _lock, _live_text, _paint = threading.RLock(), "", None


os.register_at_fork(after_in_child=_forget_in_child)
