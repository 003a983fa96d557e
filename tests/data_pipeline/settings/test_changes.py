"""Changed settings, with their old and new values as on a command line."""

from pathlib import Path

from data_pipeline.settings.changes import as_typed, changes


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
