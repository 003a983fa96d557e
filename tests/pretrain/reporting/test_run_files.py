"""Run folders of every age: complete, running, old, damaged, or none."""

import json
import os
from pathlib import Path

import pytest

from pretrain.reporting.run_files import STALE_SECONDS, read_run, read_runs
from tests.support.written_runs import write_run


def aged(folder: Path) -> Path:
    """Set the log's time back, as that of a run that ended."""
    past = os.stat(folder / "log.jsonl").st_mtime - 2 * STALE_SECONDS
    os.utime(folder / "log.jsonl", (past, past))
    return folder


def test_steps_count_those_that_are_done(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", 40, {7: {"skipped": True, "loss": None}}))
    assert (run.step, run.num_steps, run.status, run.name) == (40, 40, "complete", "run")
    assert run.column("losses/mim").steps[[0, -1]].tolist() == [1, 40]
    assert run.steps_where("skipped").steps.tolist() == [8]
    assert run.evaluations["raw"]["loss/mim"].steps.tolist() == [0, 10, 20, 30, 40]
    assert [start.first_step for start in run.starts] == [0, 20]
    assert len(run.column("no such figure")) == 0


def test_an_old_run_has_its_starts_from_the_log(tmp_path: Path) -> None:
    stops = {11: {"stop": True}, 39: {"stop": True}}
    run = read_run(write_run(tmp_path / "run", 40, stops, starts=None, evaluated_every=None))
    assert [start.first_step for start in run.starts] == [0, 12] and run.starts[0].time is None
    assert run.evaluations == {"raw": {}, "ema": {}}


def test_the_status_of_a_run_is_that_of_its_last_line(tmp_path: Path) -> None:
    config = {"num_steps": 100}
    running = write_run(tmp_path / "running", 40, config=config)
    assert read_run(running).status == "running"
    assert read_run(aged(running)).status == "interrupted"
    stopped = write_run(tmp_path / "stopped", 40, {39: {"stop": True}}, config=config)
    assert (read_run(stopped).status, read_run(stopped).num_steps) == ("stopped on request", 100)
    (tmp_path / "new" / "checkpoints").mkdir(parents=True)
    assert (read_run(tmp_path / "new").status, read_run(tmp_path / "new").step) == ("no step logged yet", 0)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"starts": 3}', '{"starts": [7, {"time": "noon", "first_step": null, "ranks": {}}]}']
)
def test_a_damaged_environment_costs_only_its_facts(content: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "environment.json").write_text(content)
    run = read_run(folder)
    assert run.step == 40 and all(start.time is None and not start.ranks for start in run.starts)


def test_a_damaged_config_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "config.json").write_text('{"num_steps": 4')
    assert read_run(folder).config == {}
    assert "config.json is not a JSON object; the report does without it" in capfd.readouterr().err


def test_evaluations_of_another_form_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lines = [{"step": "3"}, {"step": 3, "weights": "raw", "figures": [1]}, {"step": 3, "figures": {}}]
    with (folder / "evaluations.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert len(read_run(folder).evaluations["raw"]["loss/mim"]) == 5


def test_a_folder_that_is_no_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; give the folder of a run"):
        read_run(tmp_path / "none")
    with pytest.raises(ValueError, match=r"holds neither log.jsonl nor checkpoints"):
        read_run(tmp_path)


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a" / "laptop"), write_run(tmp_path / "b" / "laptop")
    assert [run.name for run in read_runs([a, b])] == ["a/laptop", "b/laptop"]
    assert [run.name for run in read_runs([a, write_run(tmp_path / "c")])] == ["laptop", "c"]
    with pytest.raises(ValueError, match="given twice"):
        read_runs([a, a])
