"""One step protocol for every job, on an engine that records its calls. CPU, under a second."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.jobs.job import Step, StepLoss
from pretrain.run.accumulate import accumulate
from pretrain.survival.step_guard import MIN_RECENT, StepGuard


class NotingEngine:
    """An engine that counts micro-steps like DeepSpeed and skips a step whose gradient is not finite."""

    def __init__(self, num_micro_steps: int):
        self.num_micro_steps, self.notes = num_micro_steps, list[str]()
        self.weight = torch.ones((), requires_grad=True)
        self.skipped_steps = 0
        self.num_applied = 0

    def __call__(self, value: Tensor) -> Tensor:
        self.notes.append("engine")
        return self.weight * value

    def backward(self, loss: Tensor) -> None:
        assert loss.dtype == torch.float32
        loss.backward()
        self.notes.append("backward done")

    def step(self) -> None:
        if self.notes.count("backward done") < self.num_micro_steps:
            return
        assert self.weight.grad is not None
        if self.weight.grad.isfinite():
            self.num_applied += 1
        else:
            self.skipped_steps += 1


class NotingWatchdog:
    def __init__(self, notes: list[str]):
        self.notes = notes

    def at(self, phase: str, step: int | None = None) -> None:
        self.notes.append(phase)


class Squares(Step):
    """A job's part: the loss is the sum of its inputs times the weight."""

    def __init__(self, values: list[float], notes: list[str]):
        self.micro_steps = [torch.tensor(value) for value in values]
        self.notes = notes

    def forward(self, engine: Any, micro_step: Tensor) -> tuple[Tensor, Tensor]:
        loss = engine(micro_step)
        return loss, loss.detach()

    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        self.notes.append("reduce")
        total = torch.stack(metrics).sum().double()  # of another type than the loss, as a job may have it
        return StepLoss(total, {"sum": total})

    def after_update(self, engine: Any, is_applied: bool) -> dict[str, Any]:
        self.notes.append("after update")
        return {"was_applied": is_applied}


def run(values: list[float], guard: StepGuard) -> tuple[NotingEngine, dict[str, Any]]:
    engine = NotingEngine(len(values))
    watchdog: Any = NotingWatchdog(engine.notes)
    record, is_skipped = accumulate(engine, Squares(values, engine.notes), guard, watchdog)
    assert is_skipped is not record["was_applied"]
    return engine, record


def test_losses_are_reduced_before_the_last_backward_and_the_job_finishes_last() -> None:
    engine, record = run([1.0, 2.0], StepGuard(0, 3))
    first = ["forward", "engine", "backward", "backward done", "optimizer"]
    last = ["forward", "engine", "reduce", "backward", "backward done", "optimizer", "after update"]
    assert engine.notes == first + last
    assert list(record) == ["loss", "losses", "was_applied"]
    assert float(record["loss"]) == float(record["losses"]["sum"]) == 3.0 and record["was_applied"]
    assert engine.weight.grad == 3.0 and engine.num_applied == 1


@pytest.mark.parametrize("values", [[math.nan, 1.0], [1.0, math.inf]])
def test_a_loss_that_is_not_finite_in_any_micro_step_skips_the_step(values: list[float]) -> None:
    engine, record = run(values, StepGuard(0, 3))
    assert (engine.num_applied, engine.skipped_steps, record["was_applied"]) == (0, 1, False)


def test_a_spike_of_the_whole_step_is_skipped_although_each_micro_step_is_finite() -> None:
    guard = StepGuard(6, 3)
    for number in range(MIN_RECENT):
        guard.remember(1.0 + number % 2 / 10)
    assert run([0.5, 0.6], guard)[1]["was_applied"]
    engine, record = run([0.5, 9.0], guard)
    assert not record["was_applied"] and engine.num_applied == 0
    assert float(record["loss"]) == 9.5  # the log has the spike itself
