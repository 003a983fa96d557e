"""Times at which figures of steps are measured, read and logged. CPU, under a second."""

from pathlib import Path
from typing import Any

import torch

from pretrain.jobs.job import StepWork
from pretrain.run.run_log import RunLog, read_log
from pretrain.run.speed import SpeedMeter
from pretrain.run.step_records import StepRecords
from pretrain.survival.step_guard import StepGuard


class CountingMeter(SpeedMeter):
    """A meter that records the number of lines logged when a step is measured."""

    def __init__(self, run_dir: Path):
        super().__init__(1, torch.device("cpu"))
        self.run_dir = run_dir

    def step_ended(self, work: StepWork, step_seconds: float) -> dict[str, float]:
        assert super().step_ended(work, step_seconds).keys() == {"num_tokens", "tokens_per_second", "tflops_per_rank"}
        return {"tokens_per_second": float(len(read_log(self.run_dir)))}


def record(step: int, skipped: bool = False) -> dict[str, Any]:
    loss = torch.tensor(float(step))
    figures = {"loss": loss, "losses": {"mim": loss}, "grad_norm": loss, "lr": 0.1, "seconds": 0.01}
    return {"step": step, "skipped": skipped, **figures}


def test_a_step_is_measured_when_launched_and_logged_when_the_next_one_is(tmp_path: Path) -> None:
    guard = StepGuard(0, 3)
    records = StepRecords(RunLog(tmp_path, 0, 4), guard, CountingMeter(tmp_path))
    for step in range(3):
        records.add(record(step, skipped=step == 1), StepWork(num_tokens=10, flops=10))
        assert [line["step"] for line in read_log(tmp_path)] == list(range(step))
    records.flush(is_kept=True)  # like before a checkpoint
    records.flush()
    log = read_log(tmp_path)
    assert [line["loss"] for line in log] == [0, 1, 2]
    assert [line["tokens_per_second"] for line in log] == [0, 0, 1]
    assert list(guard.recent_losses) == [0, 2]


def test_if_spikes_are_skipped_a_loss_is_read_at_once(tmp_path: Path) -> None:
    guard = StepGuard(6, 3)
    records = StepRecords(None, guard)
    records.add(record(5))
    assert list(guard.recent_losses) == [5]
