"""Steps that are skipped: those without a finite loss, and spikes."""

import json

import pytest
import torch

from pretrain.survival.step_guard import MAX_SKIPPED_SHARE, MIN_RECENT, NUM_RECENT, StepGuard
from tests.support.launch import ROOT


def test_a_spike_is_measured_by_the_losses_before_it() -> None:
    guard = StepGuard(spike_deviations=4, max_consecutive_skips=3)
    losses = [2 + 0.1 * (-1) ** step for step in range(2 * NUM_RECENT)]
    for loss in losses[: MIN_RECENT - 1]:
        guard.remember(loss)
    assert not guard.is_spike(100)  # too few losses to compare with
    for loss in losses:
        guard.remember(loss)
    assert not guard.is_spike(2.39) and guard.is_spike(2.41)  # 2 +- 4 x 0.1
    assert not guard.is_spike(-100)
    again = StepGuard(4, 3, json.loads(json.dumps(guard.state())))
    assert again.state() == guard.state() and again.is_spike(2.41)
    assert not StepGuard(0, 3, guard.state()).is_spike(100)


@pytest.mark.parametrize(("loss", "is_applied"), [(1.5, True), (float("inf"), False), (float("nan"), False)])
def test_a_step_that_is_not_finite_is_not_applied(loss: float, is_applied: bool) -> None:
    factor = StepGuard(0, 3).factor(torch.tensor(loss))
    assert factor == 1 if is_applied else factor.isnan()


@pytest.mark.parametrize(("skipped", "is_many"), [(0, False), (20, False), (21, True), (100, True)])
def test_more_than_a_fifth_of_the_steps_is_many(skipped: int, is_many: bool) -> None:
    guard = StepGuard(0, 1000)
    for _ in range(skipped):
        guard.count(True)
    assert guard.has_skipped_many(100) == is_many
    assert guard.summary(100).startswith(f", {skipped} of them skipped" if skipped else "")
    assert ("more than 20%" in guard.summary(100)) == is_many
    assert f"a fifth ({MAX_SKIPPED_SHARE:.0%})".replace("%", " %") in (ROOT / "docs" / "running.md").read_text()


def test_too_many_skips_in_a_row_end_the_run() -> None:
    guard = StepGuard(0, max_consecutive_skips=2)
    assert [guard.count(skipped) for skipped in (True, False, True)] == ["", "", ""]
    assert guard.num_skipped_steps == 2
    assert guard.count(True).startswith("2 steps in a row had no finite loss and gradient")
