"""Ranges of settings: each is stated once, in the annotation of its field, and checked wherever a value comes from.

    warmup_steps: Annotated[int, Interval(ge=0, le=MOST)] = 10_000

`check_ranges` reads it whenever the dataclass is built, parsing.py for a command line (and --help shows it), and
pydantic for JSON. A range excludes values that no run can work with, not values that are merely unwise. The ranges of
the network are in model/ranges.py.
"""

import math
import types
from collections.abc import Hashable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from annotated_types import Interval

MOST = 1_000_000_000
"""Upper bound of every count."""

Count = Annotated[int, Interval(ge=1, le=MOST)]
CountOrZero = Annotated[int, Interval(ge=0, le=MOST)]
SampleCount = Annotated[int, Interval(ge=0, le=10_000_000)]
"""Number of samples of one kind in the global batch."""
Size = Annotated[int, Interval(ge=1, le=10_000_000)]
"""Size of a part of a network, such as a width or a vocabulary."""
SizeOrZero = Annotated[int, Interval(ge=0, le=10_000_000)]
Side = Annotated[int, Interval(ge=1, le=8192)]
"""Side of an image or a patch, in pixels."""
TextLength = Annotated[int, Interval(ge=3, le=65_536)]
"""Number of tokens; at least <s>, one word and </s>."""
Workers = Annotated[int, Interval(ge=1, le=4096)]
"""Number of processes."""
WorkersOrZero = Annotated[int, Interval(ge=0, le=4096)]
ByteCount = Annotated[int, Interval(ge=1, le=10**18)]
"""Number of bytes or pixels."""
Seed = Annotated[int, Interval(ge=0, le=2**63 - 3)]
"""Leaves room for seed + 1 and seed + 2, used for pairs and texts: numpy rounds keys beyond 63 bits."""
Depth = Annotated[int, Interval(ge=1, le=1000)]
"""Number of blocks of a network."""
Part = Annotated[float, Interval(ge=0, le=1)]
PartBelowOne = Annotated[float, Interval(ge=0, lt=1)]
PartBetween = Annotated[float, Interval(gt=0, lt=1)]
Deviation = Annotated[float, Interval(gt=0, le=1000)]
"""Standard deviation of initial weights."""
LearningRate = Annotated[float, Interval(ge=0, le=1000)]
Weight = Annotated[float, Interval(ge=0, le=1e9)]
"""Factor or threshold."""
Figure = Annotated[float, Interval(gt=0, le=1e6)]
"""Figure of a machine, such as its bandwidth."""
Seconds = Annotated[float, Interval(gt=0, le=1e6)]
"""Duration of up to eleven days, which every timer of the system can hold."""


@dataclass(frozen=True)
class Range:
    """Allowed values of a number."""

    number: type[int] | type[float]
    low: float
    high: float
    has_low: bool = True
    """Whether `low` itself is allowed."""
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
        """Return the value of a command-line argument. Raises ValueError with the range if it is outside."""
        try:
            value = None if text == "None" else self.number(text)
        except ValueError:
            value = math.nan
        if value not in self:
            raise ValueError(f"{_shortened(text)} must be {self}")
        return value

    @property
    def bounds(self) -> str:
        """The bounds in words: 'from 1 to 1,000', 'in [0, 1)'."""
        low, high = (f"{int(bound):,}" if bound == int(bound) else f"{bound:g}" for bound in (self.low, self.high))
        if self.has_low and self.has_high:
            return f"from {low} to {high}"
        return f"in {'[' if self.has_low else '('}{low}, {high}{']' if self.has_high else ')'}"

    def __str__(self) -> str:
        kind = "an integer" if self.number is int else "a number"
        return f"{kind} {self.bounds}{' or None' if self.may_be_none else ''}"


def range_of(annotation: object) -> Range | None:
    """Return the range in a field's annotation; None if it is not a number with two bounds."""
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
    """Return the ranges of a dataclass's numeric fields, by name."""
    assert isinstance(kind, type) and is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: range_of(hints[field.name]) for field in fields(kind)}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def check_ranges(settings: object) -> None:
    """Raise ValueError, naming field, value and range, if a number of a dataclass is outside its range."""
    for name, bounds in ranges_of(type(settings)).items():  # type: ignore[arg-type]
        value = getattr(settings, name)
        if value not in bounds:
            is_huge = isinstance(value, int) and value.bit_length() > 1000  # Python refuses to print it
            shown = "of many digits" if is_huge else _shortened(repr(value))
            raise ValueError(f"{name} {shown} must be {bounds}")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
