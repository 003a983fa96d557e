"""A run folder that is moved, deleted or replaced during its run: nothing is claimed that is not on disk."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.run_log import LOG_NAME, RunLog, read_log
from tests.support.faults import wait_for
from tests.support.launch import RankProcess, run_ranks
from tests.support.tiny_run import TinyData


def move(run_dir: Path) -> None:
    run_dir.rename(run_dir.with_name("elsewhere"))


def delete(run_dir: Path) -> None:
    move(run_dir)  # atomic; a folder that is deleted while ranks write into it may come back
    shutil.rmtree(run_dir.with_name("elsewhere"))


def replace_by_a_copy(run_dir: Path) -> None:
    move(run_dir)
    shutil.copytree(run_dir.with_name("elsewhere"), run_dir)


def replace_the_log(run_dir: Path) -> None:
    (run_dir / LOG_NAME).rename(run_dir / "log.old")
    (run_dir / LOG_NAME).touch()


def delete_the_checkpoints(run_dir: Path) -> None:
    (run_dir / "checkpoints").rename(run_dir / "gone")


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (move, f"{LOG_NAME} was moved, deleted or replaced while the run wrote it"),
        pytest.param(delete, f"{LOG_NAME} was moved, deleted or replaced while the run wrote it", marks=slow),
        pytest.param(replace_by_a_copy, f"{LOG_NAME} was moved, deleted or replaced while the run wrote", marks=slow),
        pytest.param(replace_the_log, f"{LOG_NAME} was moved, deleted or replaced while the run wrote it", marks=slow),
        (
            delete_the_checkpoints,
            ".partial cannot be created (No such file or directory); put the run folder back",
        ),
    ],
)
def test_a_run_whose_folder_is_changed_ends_with_a_sentence(
    change: Callable[[Path], None], said: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    save = 20 if change is delete_the_checkpoints else 100_000  # not while it is moved

    def interfere(_: list[RankProcess]) -> None:
        wait_for(lambda: (run_dir / LOG_NAME).exists() and len(read_log(run_dir)) >= 2)
        change(run_dir)

    arguments = ["demo", *tiny_data.overrides(run_dir), "--num-steps", 100_000, "--save-every-steps", save]
    ended = run_ranks(1, "pretrain.train", arguments, while_running=interfere)
    assert ended.exit_codes == [2], ended.stderr
    (line,) = ended.stderr[0].splitlines()
    assert line.startswith(f"error: {run_dir}/") and said in line
    assert "complete" not in ended.stdout[0] and "saved" not in ended.stdout[0]
    if change in (move, delete):
        assert not run_dir.exists()


def record(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1.0, "losses": {}, "lr": 0.1, "grad_norm": 1.0, "seconds": 1.0}


@pytest.mark.parametrize("change", [move, delete, replace_by_a_copy, replace_the_log])
def test_a_log_that_is_gone_is_detected_at_the_end(change: Callable[[Path], None], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    log = RunLog(run_dir, 0)
    log.write(record(0))
    log.check()
    change(run_dir)
    if change is replace_by_a_copy:  # a copy with all lines is valid until the next line, which it lacks
        log.check()
        log.write(record(1))
    with pytest.raises(OSError, match=f"{LOG_NAME} was moved, deleted or replaced while the run wrote it; put the"):
        log.check()
