"""Times at which figures of steps are measured, read and logged. CPU, under a second."""

from pathlib import Path
from typing import Any

import torch

from pretrain.run.run_log import RunLog, read_log
from pretrain.run.step_records import StepRecords
from pretrain.survival.step_guard import StepGuard


def record(step: int, skipped: bool = False) -> dict[str, Any]:
    loss = torch.tensor(float(step))
    figures = {"loss": loss, "losses": {"mim": loss}, "grad_norm": loss, "lr": 0.1, "seconds": 0.01}
    return {"step": step, "skipped": skipped, **figures}


def test_a_step_is_logged_and_shown_when_the_next_one_is_launched(tmp_path: Path) -> None:
    guard, shown = StepGuard(0, 3), list[tuple[int, int]]()
    records = StepRecords(
        RunLog(tmp_path, 0), guard, watchers=[lambda record: shown.append((record["step"], len(read_log(tmp_path))))]
    )
    for step in range(3):
        records.add(record(step, skipped=step == 1))
        assert [line["step"] for line in read_log(tmp_path)] == list(range(step))
    records.flush(is_kept=True)  # like before a checkpoint
    records.flush()
    log = read_log(tmp_path)
    assert [line["loss"] for line in log] == [0, 1, 2]
    assert shown == [(0, 1), (1, 2), (2, 3)]
    assert list(guard.recent_losses) == [0, 2]


def test_if_spikes_are_skipped_a_loss_is_read_at_once(tmp_path: Path) -> None:
    guard = StepGuard(6, 3)
    records = StepRecords(None, guard)
    records.add(record(5))
    assert list(guard.recent_losses) == [5]
