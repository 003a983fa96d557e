"""Rows of delimited text: CSV with any delimiter, and TSV, in which a quote is an ordinary character.

A row that is not valid CSV, such as one whose quote does not close, is skipped alone: reading resumes in the line after
the one in which it begins.
"""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from data_pipeline.sources.files import form
from data_pipeline.sources.text_lines import LONG_LINE_PROBLEM, LongLine, open_text

DELIMITERS = {".csv": ",;\t|", ".tsv": "\t"}
"""Candidates by the form of a file. The one that gives most of the needed columns is chosen, else the first."""
MOST_ROW_LINES = 1000
"""Maximum number of lines of a row. In a longer one, a quote does not close."""
LONGEST_ROW = 1 << 26
"""Maximum number of characters of a row of several lines."""


class Row(NamedTuple):
    line: int
    """Number of its first line, from 1."""
    cells: list[str]
    problem: str = ""


def rows_of(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """Yield the non-empty rows, the header first. needed: names of columns, by which the delimiter is found."""
    with open_text(path, newline="\n" if form(path) == ".tsv" else "") as text:
        lines = iter(text)
        beginning = list(islice(lines, 1))
        while beginning and not beginning[-1].strip() and (line := next(lines, "")):
            beginning.append(line)
        delimiter = _delimiter(beginning[-1] if beginning else "", DELIMITERS[form(path)], needed)
        lines = chain(beginning, lines)
        yield from _tsv_rows(lines) if form(path) == ".tsv" else _csv_rows(lines, delimiter)


def _delimiter(header: str, candidates: str, needed: Sequence[str]) -> str:
    def fit(delimiter: str) -> tuple[int, int]:
        try:
            names = next(csv.reader([header[: 1 << 16]], delimiter=delimiter), [])
        except csv.Error:  # reported with the row itself
            return 0, 0
        return sum(name in names for name in needed), len(names)

    return max(candidates, key=fit)


def _tsv_rows(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if isinstance(line, LongLine):
            yield Row(number, [], LONG_LINE_PROBLEM)
        elif cells := line.rstrip("\r\n"):
            yield Row(number, cells.split("\t"))


def _csv_rows(lines: Iterator[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_ROW)
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        begin = source.begin_row()
        try:
            cells = next(reader, None)
        except (csv.Error, _RowTooLongError) as error:
            source.back_to_second_line()
            reader = csv.reader(source, delimiter=delimiter, strict=True)
            yield Row(begin, [], f"row is not valid CSV ({error})")
            continue
        if cells is None:
            return
        if cells:
            yield Row(begin, cells)


class _RowTooLongError(Exception):
    pass


class _Lines:
    """Lines, of which those of the current row can be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.ahead, self.row, self.number = lines, deque[str](), list[str](), 0

    def begin_row(self) -> int:
        """Begin a row and return the number of its first line."""
        self.row.clear()
        return self.number + 1

    def __iter__(self) -> Iterator[str]:
        length = 0
        while (line := self.ahead.popleft() if self.ahead else next(self.lines, None)) is not None:
            self.row.append(line)
            self.number += 1
            if type(line) is LongLine:
                raise _RowTooLongError(LONG_LINE_PROBLEM)
            if len(self.row) > 1:
                length += len(line)
                if len(self.row) > MOST_ROW_LINES or length > LONGEST_ROW:
                    raise _RowTooLongError("a quote does not close")
            else:
                length = 0
            yield line

    def back_to_second_line(self) -> None:
        self.ahead.extendleft(reversed(self.row[1:]))
        self.number -= len(self.row) - 1
