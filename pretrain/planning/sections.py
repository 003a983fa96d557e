"""Layout of a plan: sections under headings, and lines that say where their figure comes from."""

import textwrap
from collections.abc import Iterable

WIDTH = 120
"""Columns of a paragraph."""


def section(title: str, lines: Iterable[str]) -> str:
    """Return lines under an underlined heading."""
    return "\n".join([title, "-" * len(title), *lines])


def fact(name: str, figure: str, origin: str) -> str:
    """Return a line with a figure and its origin, which begins with measured, published, counted or assumed."""
    return f"{name:30}{figure:>20}  {origin}"


def paragraph(text: str) -> str:
    """Return sentences on lines of at most WIDTH columns; options and paths stay whole."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
