"""The figures of a log as columns: a run of months logs hundreds of thousands of lines, which are read one by one."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from pretrain.survival.json_lines import MAX_LINE_BYTES

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
MAX_INTEGER = 1 << 62
MAX_DEPTH = 2
"""Levels of objects within a record; passes has two."""
MAX_COLUMNS = 1000
"""Number of names that are kept. A run logs some dozens; a damaged file must not fill memory."""


@dataclass(frozen=True, eq=False)
class Column:
    """One figure over the steps that logged it."""

    steps: Steps
    """(N,), increasing."""
    values: Floats
    """(N,); NaN for null."""

    @property
    def finite(self) -> "Column":
        """The column without NaN and infinities."""
        is_finite = np.isfinite(self.values)
        return self if is_finite.all() else Column(self.steps[is_finite], self.values[is_finite])

    def __len__(self) -> int:
        return len(self.steps)


NO_COLUMN = Column(np.empty(0, np.int64), np.empty(0))


def read_columns(records: Iterable[dict[str, Any]]) -> dict[str, Column]:
    """Return the numbers of records by name, those of nested objects as OUTER/INNER; texts and lists are left out.

    records: each with `step`; true and false count as 1 and 0, null as NaN. If a step occurs twice the later record is
    taken.
    """
    found: dict[str, tuple[array[int], array[float]]] = {}

    def add(step: int, prefix: str, depth: int, record: dict[str, Any]) -> None:
        for name, value in record.items():
            kind = type(value)
            if kind is dict:
                if depth < MAX_DEPTH:
                    add(step, f"{prefix}{name}/", depth + 1, value)
                continue
            if value is None:
                value = math.nan
            elif kind is not float and kind is not bool and (kind is not int or abs(value) > MAX_INTEGER):
                continue
            column = found.get(prefix + name)
            if column is None:
                if len(found) == MAX_COLUMNS:
                    continue
                column = found[prefix + name] = (array("q"), array("d"))
            column[0].append(step)
            column[1].append(value)

    for record in records:
        if record["step"] <= MAX_INTEGER:
            add(record["step"], "", 0, record)
    return {name: _in_order(np.array(steps), np.array(values)) for name, (steps, values) in found.items()}


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one per line; nothing if there is no file. Raises OSError.

    Other lines are left out, such as the last one of a running run, of which only a part may be written yet. pydantic's
    parser takes a quarter of the time of Python's.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            try:
                record = from_json(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def _in_order(steps: Steps, values: Floats) -> Column:
    if (np.diff(steps) > 0).all():
        return Column(steps, values)
    steps, last = np.unique(steps[::-1], return_index=True)
    return Column(steps, values[::-1][last])
