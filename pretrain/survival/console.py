"""Saying something to whoever reads along: a full disk or a closed terminal must not end a run."""

import sys
from contextlib import suppress
from typing import TextIO

from data_pipeline.samples.sample import printable_lines


def say(text: str) -> None:
    """Print on standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print on standard error, whatever that is redirected to for a while."""
    _print(text, sys.__stderr__)


def _print(text: str, stream: TextIO | None) -> None:
    shown = printable_lines(text)
    with suppress(OSError, ValueError):  # ValueError: it is closed
        try:
            print(shown, file=stream, flush=True)
        except UnicodeEncodeError:  # a terminal that is not UTF-8
            print(shown.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
