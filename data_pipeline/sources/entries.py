"""Entries of a source, one by one: a damaged entry is skipped by its place, a file of another layout is refused.

The first entries show the layout of a file: if none of them fits, the whole file is of another layout and is refused at
once. An entry that does not fit, among others that do, is one sample to skip and count.
"""

import reprlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.samples.records import Record

FIRST_ENTRIES = 100
"""A file is refused if none of its first entries, up to this number, fits the layout."""


class EntryError(ValueError):
    """Raised for an entry that does not fit the layout. The message is the reason, with details in parentheses."""


class RefusedFileError(ValueError):
    """Raised for a file that cannot be read, or only up to some place. The message is a sentence with its path."""

    def __init__(self, path: Path | str, reason: str, details: str = "", remedy: str = "") -> None:
        details = details.removeprefix(f"{path}: ")
        if details.startswith(f"{path}:"):
            details = f"line {details.removeprefix(f'{path}:')}"
        self.problem = f"file {reason} ({details})" if details else f"file {reason}"
        """The problem for Record.problem."""
        super().__init__(f"{path} {reason}" + (f" ({details})" if details else "") + (f"; {remedy}" if remedy else ""))


class Entry(NamedTuple):
    """A line, row or element before it is parsed."""

    name: str
    """Name of its record, if it has none of its own."""
    place: str
    content: Any
    problem: str = ""
    """Why there is no content; empty if there is."""


def records_of_entries(
    entries: Iterable[Entry], parse: Callable[[Entry], Iterable[Record]], refusal: Callable[[str], Exception]
) -> Iterator[Record]:
    """Yield the records of each entry, and for an entry that does not fit a record with its problem.

    parse: returns the records of an entry, or raises EntryError before the first. refusal: returns the error to raise
    if none of the first entries fits, from place and problem of the first.
    """
    misfits: list[Record] | None = []
    """Entries so far, as long as none fits; then None."""
    first = ""
    for entry in entries:
        try:
            if entry.problem:
                raise EntryError(entry.problem)
            for record in parse(entry):
                if misfits is not None:
                    yield from misfits
                    misfits = None
                yield record
        except EntryError as error:
            misfit = Record(entry.name, problem=str(error), place=entry.place)
            if misfits is None:
                yield misfit
                continue
            first = first or f"{entry.place}: {error}"
            misfits.append(misfit)
            if len(misfits) >= FIRST_ENTRIES:
                raise refusal(first) from error
        else:
            if misfits is not None:
                yield from misfits
                misfits = None
    if misfits:
        raise refusal(first)


def records_of_files(names: Iterable[str], folder: Path, read: Callable[[str], Iterator[Record]]) -> Iterator[Record]:
    """Yield the records of each file of a folder, and for a refused file a record with its problem.

    Raises the RefusedFileError of the first file if none of the first files can be read.
    """
    refused: list[Record] = []
    some_fit, first = False, None
    for name in names:
        try:
            for record in read(name):
                if not some_fit and record.problem is None:
                    some_fit = True
                    yield from refused
                yield record
        except RefusedFileError as error:
            record = Record(name, problem=error.problem, place=str(folder / name))
            if some_fit:
                yield record
                continue
            first = first or error
            refused.append(record)
            if len(refused) >= FIRST_ENTRIES:
                raise first from None
    if first and not some_fit:
        raise first


def field_of(entry: Any, name: str, form: Any) -> Any:
    """Return a field of a JSON object. Raises EntryError if it is missing or of another type."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), form) or isinstance(entry[name], bool):
        raise EntryError(f"{name!r} is missing or wrong (in {reprlib.repr(entry)})")
    return entry[name]
