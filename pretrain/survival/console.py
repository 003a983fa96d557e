"""Printing that cannot fail: a full disk or a closed terminal must not end a run."""

import sys
from contextlib import suppress
from typing import TextIO

from data_pipeline.samples.sample import printable_lines


def say(text: str) -> None:
    """Print on standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print on the process's standard error, even while sys.stderr is redirected."""
    _print(text, sys.__stderr__)


def _print(text: str, stream: TextIO | None) -> None:
    shown = printable_lines(text)
    with suppress(OSError, ValueError):  # ValueError: it is closed
        try:
            print(shown, file=stream, flush=True)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            print(shown.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
