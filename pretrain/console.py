"""Saying something to whoever reads along: a full disk or a closed terminal must not end a run."""

import sys
from contextlib import suppress


def say(text: str) -> None:
    """On standard output."""
    with suppress(OSError, ValueError):  # ValueError: it is closed
        print(text, flush=True)


def warn(text: str) -> None:
    """On standard error, whatever it is redirected to for a while."""
    with suppress(OSError, ValueError):
        print(text, file=sys.__stderr__, flush=True)
