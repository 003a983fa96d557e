"""The range of a setting: stated once, in the annotation of its field, and checked wherever its value comes from.

    warmup_steps: Annotated[int, Interval(ge=0, le=MOST)] = 10_000

`check_ranges` reads it whenever the dataclass is built, `settings.parsing` when it is given on a command line (where
--help shows it), and pydantic when it is read from JSON. A range leaves out what no run can work with: what is merely
unwise is inside.
"""

import math
import types
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval

MOST = 1_000_000_000
"""Largest count of anything."""

Count = Annotated[int, Interval(ge=1, le=MOST)]
CountOrZero = Annotated[int, Interval(ge=0, le=MOST)]
SampleCount = Annotated[int, Interval(ge=0, le=10_000_000)]
"""Of a kind, in the global batch."""
Size = Annotated[int, Interval(ge=1, le=10_000_000)]
"""Of a part of a network: a width, a depth, a vocabulary."""
SizeOrZero = Annotated[int, Interval(ge=0, le=10_000_000)]
Side = Annotated[int, Interval(ge=1, le=8192)]
"""Of an image or a patch, in pixels."""
TextLength = Annotated[int, Interval(ge=3, le=65_536)]
"""In tokens; no less than <s>, a word and </s>."""
Workers = Annotated[int, Interval(ge=1, le=4096)]
"""Processes."""
WorkersOrZero = Annotated[int, Interval(ge=0, le=4096)]
ByteCount = Annotated[int, Interval(ge=1, le=10**18)]
"""Bytes or pixels."""
Seed = Annotated[int, Interval(ge=0, le=2**63 - 3)]
"""The seeds of pairs and texts are the two that follow, and numpy rounds keys beyond 63 bits."""
Depth = Annotated[int, Interval(ge=1, le=1000)]
"""Blocks of a network."""
Part = Annotated[float, Interval(ge=0, le=1)]
PartBelowOne = Annotated[float, Interval(ge=0, lt=1)]
PartBetween = Annotated[float, Interval(gt=0, lt=1)]
Deviation = Annotated[float, Interval(gt=0, le=1000)]
"""A standard deviation that weights are drawn with."""
LearningRate = Annotated[float, Interval(ge=0, le=1000)]
Weight = Annotated[float, Interval(ge=0, le=1e9)]
"""A factor or a threshold."""
Figure = Annotated[float, Interval(gt=0, le=1e6)]
"""Of a machine."""
Seconds = Annotated[float, Interval(gt=0, le=1e6)]
"""Up to eleven days, which every timer of the system can hold."""


@dataclass(frozen=True)
class Range:
    """What a number may be."""

    number: type[int] | type[float]
    low: float
    high: float
    has_low: bool = True
    """Whether `low` itself is in it."""
    has_high: bool = True
    may_be_none: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.may_be_none
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.number is float else int):
            return False
        return (
            (value >= self.low if self.has_low else value > self.low)
            and (value <= self.high if self.has_high else value < self.high)
        )  # fmt: skip

    def parse(self, text: str) -> int | float | None:
        """The value of a word of a command line. Raises ValueError, saying what it must be."""
        try:
            value = None if text == "None" else self.number(text)
        except ValueError:
            value = math.nan
        if value not in self:
            raise ValueError(f"{_shortened(text)} must be {self}")
        return value

    @property
    def bounds(self) -> str:
        """'from 1 to 1,000', 'in [0, 1)'"""
        low, high = (f"{int(bound):,}" if bound == int(bound) else f"{bound:g}" for bound in (self.low, self.high))
        if self.has_low and self.has_high:
            return f"from {low} to {high}"
        return f"in {'[' if self.has_low else '('}{low}, {high}{']' if self.has_high else ')'}"

    def __str__(self) -> str:
        kind = "an integer" if self.number is int else "a number"
        return f"{kind} {self.bounds}{' or None' if self.may_be_none else ''}"


def range_of(annotation: object) -> Range | None:
    """Of a field with this annotation; None if it is no number, or none with two bounds."""
    if get_origin(annotation) is Annotated:
        number, *marks = get_args(annotation)
        interval = next((mark for mark in marks if isinstance(mark, Interval)), None)
        if number in (int, float) and interval is not None:
            return _range_from(number, interval)
        return range_of(number)
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        found = range_of(inner[0]) if len(inner) == 1 else None
        return found and replace(found, may_be_none=True)
    return None


def _range_from(number: type[int] | type[float], interval: Interval) -> Range | None:
    low, high = (
        next((bound for bound in pair if bound is not None), None)
        for pair in ((interval.ge, interval.gt), (interval.le, interval.lt))
    )
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return Range(number, low, high, interval.ge is not None, interval.le is not None)


@cache
def ranges_of(kind: Hashable) -> dict[str, Range]:
    """Of the numeric fields of a dataclass."""
    assert isinstance(kind, type) and is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: range_of(hints[field.name]) for field in fields(kind)}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def check_ranges(settings: object) -> None:
    """Raise ValueError, naming field, value and range, unless each number of a dataclass lies in its range."""
    for name, bounds in ranges_of(type(settings)).items():  # type: ignore[arg-type]
        value = getattr(settings, name)
        if value not in bounds:
            is_huge = isinstance(value, int) and value.bit_length() > 1000  # Python prints no such number
            shown = "of many digits" if is_huge else _shortened(repr(value))
            raise ValueError(f"{name} {shown} must be {bounds}")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
