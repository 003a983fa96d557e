"""Numbers outside of their field's range are refused. CPU, seconds."""

from dataclasses import dataclass
from typing import Any

import pytest

from model.ranges import Count, Deviation, PartBelowOne, check_ranges


@dataclass(frozen=True)
class Settings:
    """A field of each kind of range."""

    count: Count = 1
    part: PartBelowOne = 0.0
    deviation: Deviation = 1.0
    name: str = ""


def test_the_bounds_that_belong_to_a_range_are_accepted() -> None:
    check_ranges(Settings())
    check_ranges(Settings(count=1_000_000_000, part=0.999, deviation=1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count 0 must be an integer from 1 to 1,000,000,000"),
        ({"count": 1.0}, "count 1.0 must be an integer"),
        ({"count": True}, "count True must be an integer"),
        ({"count": 10**2000}, "count of many digits must be"),
        ({"part": 1}, r"part 1 must be a number in \[0, 1\)"),
        ({"part": float("nan")}, "part nan must be"),
        ({"deviation": 0}, r"deviation 0 must be a number in \(0, 1,000\]"),
        ({"deviation": "wide"}, "deviation 'wide' must be a number"),
    ],
    ids=str,
)
def test_others_are_refused_with_field_value_and_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ranges(Settings(**changes))
