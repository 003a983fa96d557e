"""The ranges of a network's settings, stated in the annotations of their fields.

The same annotations as those of data_pipeline/settings/ranges.py, which reads them for the command line; this package
checks its own, since it knows no other.
"""

from typing import Annotated, get_args, get_type_hints

from annotated_types import Interval

Count = Annotated[int, Interval(ge=1, le=1_000_000_000)]
Size = Annotated[int, Interval(ge=1, le=10_000_000)]
"""Of a part of a network: a width, a vocabulary."""
SizeOrZero = Annotated[int, Interval(ge=0, le=10_000_000)]
Depth = Annotated[int, Interval(ge=1, le=10_000)]
"""Blocks of a network."""
Side = Annotated[int, Interval(ge=1, le=65_536)]
"""Of an image or a patch, in pixels."""
TextLength = Annotated[int, Interval(ge=3, le=10_000_000)]
"""In tokens; no less than <s>, a word and </s>."""
PartBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Deviation = Annotated[float, Interval(ge=0, le=1000)]
"""A standard deviation."""


def check_ranges(config: object) -> None:
    """Raise ValueError, naming field, value and range, unless each number of a dataclass lies in its range."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        kind, *marks = get_args(hint) or (hint,)
        for interval in (mark for mark in marks if isinstance(mark, Interval)):
            value = getattr(config, name)
            if not _lies_in(value, interval, kind):
                shown = repr(value) if not isinstance(value, int) or value.bit_length() < 1000 else "of many digits"
                raise ValueError(f"{name} {shown[:60]} must be {_in_words(interval, kind)}")


def _lies_in(value: object, interval: Interval, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    is_below = value < interval.lt if interval.lt is not None else value <= interval.le  # type: ignore[operator]
    return bool(value >= interval.ge and is_below)  # type: ignore[operator]


def _in_words(interval: Interval, kind: type) -> str:
    """'an integer from 1 to 1,000', 'a number in [0, 1)'"""
    number = "an integer" if kind is int else "a number"
    if interval.lt is not None:
        return f"{number} in [{interval.ge:,}, {interval.lt:,})"
    return f"{number} from {interval.ge:,} to {interval.le:,}"
