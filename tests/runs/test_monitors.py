"""Whole runs with monitors: every step once after kills and resumes, and the same bits as without. CPU, ten seconds."""

import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from pretrain.monitoring.csv_table import TABLE_NAME
from pretrain.monitoring.environment import read_starts
from pretrain.run.run_log import read_log
from pretrain.survival.startup_log import STARTUP_LOG_NAME
from pretrain.survival.stop import EXIT_RANK_LOST
from tests.support.faults import arguments_of, broken, check_it_goes_on, lines
from tests.support.launch import run_ranks
from tests.support.tiny_run import TinyData

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")

from pretrain.monitoring.tensorboard_events import FOLDER_NAME, TensorBoardEvents
from tests.pretrain.monitoring.test_tensorboard_events import scalars

ON = ["--monitors.tensorboard", "on", "--monitors.csv", "--monitors.norms-every-steps", 3]


def test_a_resumed_run_continues_its_curves_and_a_broken_monitor_changes_nothing(
    two_ranks: Path, saved_run: Path, tiny_data: TinyData
) -> None:
    """Resume from step 4 a run that was killed after step 8; `two_ranks` has neither monitors nor norms."""
    events = TensorBoardEvents(saved_run, 1)
    for step in range(1, 9):
        events.write(step, 0.0, {"loss": -1.0})
    (saved_run / TABLE_NAME).mkdir()  # csv cannot be opened
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, saved_run), *ON])
    assert ended.exit_codes == [0, 0] and "continues at step 4" in ended.stdout[0], ended.stderr
    assert lines(saved_run) == lines(two_ranks)
    assert ended.stderr[0].count("warning: monitor csv failed") == 1
    log = read_log(saved_run)
    assert scalars(saved_run) == [(step, -1.0) for step in range(1, 5)] + [
        (step + 1, pytest.approx(log[step]["loss"])) for step in range(4, 8)
    ]
    assert [step for step, _ in scalars(saved_run, "grad_norm/vision")] == [7]
    assert [step for step, _ in scalars(saved_run, "passes/pair" + str(tiny_data.folder / "pairs"))] == [6, 8]
    for record in log[4:]:
        assert 0 <= record["data_wait"] <= 1 and record["memory_gib"] > 0.01
        assert ("grad_norms" in record) == (record["step"] == 6)
    times = [record["time"] for record in log[4:]]
    assert times == sorted(times)
    _, start = read_starts(saved_run)
    assert start["first_step"] == 4 and start["time"] < times[0]
    assert [(rank["rank"], rank["device"]) for rank in start["ranks"]] == [(0, "cpu"), (1, "cpu")]
    started = (saved_run / STARTUP_LOG_NAME).read_text()
    assert started.count("rank 0 on ") == started.count("rank 1 on ") == 2


@pytest.mark.slow
def test_a_run_killed_twice_has_every_step_once(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for rank, step in ((0, 3), (1, 5)):
        ended = broken(tiny_data, run_dir, *ON, point="inside forward", rank=rank, step=step, action="kill")
        assert EXIT_RANK_LOST in ended.exit_codes, ended.stderr
    check_it_goes_on(tiny_data, run_dir, two_ranks, *ON)
    assert [step for step, _ in scalars(run_dir)] == list(range(1, 9))
    assert len(list((run_dir / FOLDER_NAME).iterdir())) == 3
    with (run_dir / TABLE_NAME).open(newline="") as file:
        counts = Counter(row["step"] for row in csv.DictReader(file) if row["name"] == "loss")
    assert counts == Counter(map(str, range(1, 9)))


@pytest.mark.slow
def test_a_monitor_that_hangs_does_not_keep_a_run(two_ranks: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    (tmp_path / FOLDER_NAME).mkdir()
    os.mkfifo(tmp_path / f"{TABLE_NAME[:-4]}.partial")  # opened for writing it waits for a reader, for ever
    ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, tmp_path), *ON], timeout_seconds=120)
    assert ended.exit_codes == [0, 0], ended.stderr
    assert "warning: monitor csv has not written all figures 10 s after the end" in ended.stderr[0]
    assert lines(tmp_path) == lines(two_ranks) and len(scalars(tmp_path)) == 8
