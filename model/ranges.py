"""The ranges of a network's settings, stated in the annotations of their fields.

The annotations are those of data_pipeline/settings/ranges.py, which reads them for the command line. This package
checks its own, because it must not import another.
"""

from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Interval

Count = Annotated[int, Interval(ge=1, le=1_000_000_000)]
Size = Annotated[int, Interval(ge=1, le=10_000_000)]
"""Size of a part of a network: a width, a vocabulary."""
SizeOrZero = Annotated[int, Interval(ge=0, le=10_000_000)]
Depth = Annotated[int, Interval(ge=1, le=1000)]
"""Number of blocks of a network."""
Side = Annotated[int, Interval(ge=1, le=8192)]
"""Side of an image or a patch in pixels."""
TextLength = Annotated[int, Interval(ge=3, le=65_536)]
"""Length of a text in tokens; at least <s>, a word and </s>."""
PartBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Deviation = Annotated[float, Interval(gt=0, le=1000)]
"""A standard deviation."""


def check_ranges(config: object) -> None:
    """Raise ValueError, which names field, value and range, if a number of a dataclass lies outside of its range."""
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        kind, *marks = get_args(hint) or (hint,)
        for interval in (mark for mark in marks if isinstance(mark, Interval)):
            value = getattr(config, name)
            if not _lies_in(value, interval, kind):
                shown = repr(value) if not isinstance(value, int) or value.bit_length() < 1000 else "of many digits"
                raise ValueError(f"{name} {shown[:60]} must be {_in_words(interval, kind)}")


def _bounds(interval: Interval) -> tuple[Any, bool, Any, bool]:
    """Return the lower bound and whether it is included, the upper bound and whether it is included."""
    low, has_low = (interval.ge, True) if interval.gt is None else (interval.gt, False)
    high, has_high = (interval.le, True) if interval.lt is None else (interval.lt, False)
    return low, has_low, high, has_high


def _lies_in(value: Any, interval: Interval, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    low, has_low, high, has_high = _bounds(interval)
    return bool(low < value < high or (has_low and value == low) or (has_high and value == high))


def _in_words(interval: Interval, kind: type) -> str:
    """Return the range in words: 'an integer from 1 to 1,000', 'a number in [0, 1)'."""
    number = "an integer" if kind is int else "a number"
    low, has_low, high, has_high = _bounds(interval)
    if has_low and has_high:
        return f"{number} from {low:,} to {high:,}"
    return f"{number} in {'[' if has_low else '('}{low:,}, {high:,}{']' if has_high else ')'}"
