"""Event files, read back by TensorBoard's own reader. CPU, two seconds."""

import resource
from pathlib import Path

import pytest

pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.monitoring.tensorboard_events import FOLDER_NAME, TensorBoardEvents


def scalars(run_dir: Path, name: str = "loss") -> list[tuple[int, float]]:
    """Return steps and values of a curve as TensorBoard shows it."""
    accumulator = EventAccumulator(str(run_dir / FOLDER_NAME), size_guidance={"scalars": 0})
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(name)]


def write_steps(run_dir: Path, first: int, last: int, value: float) -> TensorBoardEvents:
    events = TensorBoardEvents(run_dir, first)
    for step in range(first, last + 1):
        events.write(step, 1000.0 + step, {"loss": value, "loss/mim": value / 2})
    return events


def test_a_run_that_goes_back_has_every_step_once_with_its_last_values(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 8, 1.0)  # killed: never closed
    write_steps(tmp_path, 5, 7, 2.0)  # resumed from the checkpoint of step 4
    write_steps(tmp_path, 7, 9, 4.0).close()
    expected = [(step, 1.0) for step in range(1, 5)] + [(5, 2.0), (6, 2.0), (7, 4.0), (8, 4.0), (9, 4.0)]
    assert scalars(tmp_path) == expected
    assert scalars(tmp_path, "loss/mim") == [(step, value / 2) for step, value in expected]


def test_half_a_record_at_the_end_of_a_killed_run_hides_nothing(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 4, 1.0)
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    write_steps(tmp_path, 4, 5, 2.0)
    assert scalars(tmp_path) == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]


def test_a_full_disk_raises_and_leaves_whole_records(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = write_steps(tmp_path, 1, 3, 1.0)
    (path,) = (tmp_path / FOLDER_NAME).iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError):
            events.write(4, 0.0, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    events.write(5, 0.0, {"loss": 1.0})
    assert [step for step, _ in scalars(tmp_path)] == [1, 2, 3, 5]


def test_a_run_folder_that_is_gone_does_not_come_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TensorBoardEvents(tmp_path / "moved away", 1)
    assert list(tmp_path.iterdir()) == []
