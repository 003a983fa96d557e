"""Changed settings, with their old and new values as on a command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data_pipeline.settings.changes import MayChange, as_typed, changes, fixed_fields
from data_pipeline.settings.ranges import Count, ranges_of


@dataclass(frozen=True)
class Inner:
    seed: int = 0
    folder: MayChange[Path | None] = None


@dataclass(frozen=True)
class Outer:
    num_steps: Count = 3
    num_workers: MayChange[Count] = 4
    kernels: MayChange[Literal["a", "b"]] = "a"
    inner: Inner = field(default_factory=Inner)
    free: MayChange[Inner] = field(default_factory=Inner)


def test_marked_fields_may_change_and_keep_their_range() -> None:
    assert fixed_fields(Outer()) == {"num_steps": 3, "inner.seed": 0}
    assert ranges_of(Outer)["num_workers"] == ranges_of(Outer)["num_steps"]


def test_each_change_names_old_and_new() -> None:
    old = {"num_steps": 100, "same": 1, "pairs": ("a", "b"), "gone": "x"}
    new = {"num_steps": 200, "same": 1, "pairs": (), "root": Path("/data")}
    assert changes(old, new) == [
        "num_steps was 100, is now 200",
        "pairs was a b, is now nothing",
        "gone was x, is now None",
        "root was None, is now /data",
    ]


def test_values_carry_no_names_of_types() -> None:
    assert [as_typed(value) for value in (Path("a/b"), "c", None, 0.5, ("d", Path("e")), "")] == [
        "a/b", "c", "None", "0.5", "d e", "nothing",
    ]  # fmt: skip
