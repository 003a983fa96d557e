"""The figures of a log as columns: a run of months logs hundreds of thousands of lines, which are read one by one."""

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]
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
    steps: dict[str, array[int]] = {}
    values: dict[str, array[float]] = {}
    for record in records:
        step = record["step"]
        for name, value in _numbers("", record):
            if name not in steps:
                if len(steps) == MAX_COLUMNS:
                    continue
                steps[name], values[name] = array("q"), array("d")
            steps[name].append(step)
            values[name].append(value)
    return {name: _in_order(np.array(steps[name], np.int64), np.array(values[name])) for name in steps}


def _numbers(prefix: str, record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        kind = type(value)
        if kind is float or kind is bool or (kind is int and abs(value) < 1 << 62):
            yield prefix + name, value
        elif value is None:
            yield prefix + name, math.nan
        elif kind is dict and prefix.count("/") < 2:
            yield from _numbers(f"{prefix}{name}/", value)


def _in_order(steps: Steps, values: Floats) -> Column:
    if (np.diff(steps) > 0).all():
        return Column(steps, values)
    steps, last = np.unique(steps[::-1], return_index=True)
    return Column(steps, values[::-1][last])
