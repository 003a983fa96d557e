"""Columns of a log: nested figures, null, damaged and half-written lines."""

import math
from pathlib import Path

import numpy as np

from pretrain.reporting.columns import MAX_COLUMNS, read_columns, read_json_lines


def test_nested_figures_become_columns_and_texts_are_left_out() -> None:
    columns = read_columns(
        [
            {"step": 0, "loss": 2, "losses": {"mim": 1.5}, "skipped": False, "keys": ["a"], "name": "x"},
            {"step": 1, "loss": None, "losses": {"mim": 1.0}, "skipped": True, "passes": {"image": {"a/b": 0.5}}},
        ]
    )
    assert set(columns) == {"step", "loss", "losses/mim", "skipped", "passes/image/a/b"}
    assert columns["losses/mim"].values.tolist() == [1.5, 1.0] and columns["skipped"].values.tolist() == [0, 1]
    assert columns["loss"].values[0] == 2 and math.isnan(columns["loss"].values[1])
    assert len(columns["loss"].finite) == 1 and columns["passes/image/a/b"].steps.tolist() == [1]


def test_a_step_that_was_logged_twice_has_its_later_figures() -> None:
    column = read_columns({"step": step, "loss": loss} for step, loss in ((0, 1.0), (1, 2.0), (2, 3.0), (1, 9.0)))[
        "loss"
    ]
    assert column.steps.tolist() == [0, 1, 2] and column.values.tolist() == [1, 9, 3]


def test_hostile_records_fill_no_memory() -> None:
    deep: dict[str, object] = {"x": 1}
    for _ in range(50):
        deep = {"x": deep}
    many = {f"name{number}": 1.0 for number in range(2 * MAX_COLUMNS)}
    columns = read_columns([{"step": 0, "deep": deep, "large": 10**30, **many}, {"step": 10**30, "loss": 1.0}])
    assert len(columns) == MAX_COLUMNS and "large" not in columns and "loss" not in columns
    assert not any(name.startswith("deep") for name in columns)


def test_lines_that_are_damaged_or_half_written_are_left_out(tmp_path: Path) -> None:
    lines = [
        b'{"step": 0, "loss": 1}',
        b"\0\0\0\0",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"step": 1, "loss": NaN}',
        b'{"step": 2, "lo',
    ]
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(lines))
    found = list(read_json_lines(tmp_path / "log.jsonl"))
    assert [record["step"] for record in found] == [0, 1] and np.isnan(found[1]["loss"])
    assert list(read_json_lines(tmp_path / "none.jsonl")) == []
