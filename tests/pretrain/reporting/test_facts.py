"""Facts in words."""

from pathlib import Path

import pytest

from pretrain.reporting.facts import differences, evaluations_table, in_time, overview, passes_table, starts_table
from pretrain.reporting.run_files import read_run, read_runs
from tests.support.written_runs import write_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(35.4, "35 s"), (-1, "0 s"), (720, "12 min"), (12_000, "3 h 20 min"), (352_800, "4 d 2 h")],
)
def test_durations_are_in_words(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


def test_the_overview_has_the_figures_of_the_run(tmp_path: Path) -> None:
    found = overview(read_run(write_run(tmp_path / "run", 40, {7: {"skipped": True, "bad_samples": 3}})))
    facts = dict(found.facts)
    assert found.status == "complete" and found.done == 1
    assert facts["steps"] == "40 of 40" and facts["skipped steps"] == "1" and facts["bad samples"] == "3"
    assert facts["words, right image"] == "40 %" and facts["from first to last line"] == "39 s"
    assert facts["tokens per second, median"] == "2000" and facts["waiting for data, mean"] == "2 %"


def test_settings_in_which_runs_differ_are_listed(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", config={"run_dir": "a", "optimizer": {"peak_lr": 0.001, "beta1": 0.9}})
    b = write_run(tmp_path / "b", config={"run_dir": "b", "optimizer": {"peak_lr": 0.002, "beta1": 0.9, "new": [1, 2]}})
    table = differences(read_runs([a, b]))
    assert table is not None and table.header == ["setting", "a", "b"]
    assert table.rows == [["optimizer.peak_lr", "0.001", "0.002"], ["optimizer.new", "not set", "1 2"]]
    assert differences(read_runs([a])) is None


def test_starts_list_machines_and_versions_that_changed(tmp_path: Path) -> None:
    table = starts_table(read_run(write_run(tmp_path / "run")))
    assert table.header == ["time (UTC)", "after step", "ranks", "machines", "versions"]
    assert table.rows == [
        ["2023-11-14 22:13", "0", "2", "2 x NVIDIA H100 on node1", "torch 2.13.0"],
        ["2023-11-14 22:13", "20", "2", "2 x NVIDIA H100 on node1", "as before"],
    ]


def test_an_old_run_has_only_the_steps_of_its_starts(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", 40, {9: {"stop": True}}, starts=None, evaluated_every=None))
    assert (starts_table(run).header, starts_table(run).rows) == (["after step"], [["0"], ["10"]])
    assert evaluations_table(run) is None


def test_passes_and_held_out_figures_are_listed(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert passes_table([run]).rows[1] == ["pair", "s3://bucket/pairs", "0.70", "40"]
    table = evaluations_table(run)
    assert table is not None and ["knn/acc", "raw", "0.3", "0.3", "40"] in table.rows
