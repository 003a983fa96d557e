"""Learning rate over a run, and of groups that scale it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.schedule import learning_rate, set_learning_rate

CONFIG = OptimizerConfig(peak_lr=1e-3, min_lr=1e-5, warmup_steps=4)
NUM_STEPS = 25


def test_warmup_rises_in_equal_parts_to_the_peak_and_the_cosine_falls_to_the_minimum_at_the_last_step() -> None:
    rates = [learning_rate(CONFIG, step, NUM_STEPS) for step in range(NUM_STEPS)]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[14] == pytest.approx((1e-3 + 1e-5) / 2)  # half of the twenty steps after warmup
    assert rates[9] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize(("warmup_steps", "num_steps"), [(0, 1), (5, 5), (9, 5)])
def test_a_run_of_one_step_or_of_warmup_only_has_a_finite_rate(warmup_steps: int, num_steps: int) -> None:
    config = OptimizerConfig(peak_lr=1.0, min_lr=0.5, warmup_steps=warmup_steps)
    assert all(0 < learning_rate(config, step, num_steps) <= 1 for step in range(num_steps))


def test_a_group_scales_the_rate_and_a_scale_of_one_keeps_it_to_the_bit() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in (1.0, 0.75)]
    optimizer = torch.optim.AdamW(groups)
    lr = 1e-3 / 3
    set_learning_rate(optimizer, lr)
    assert [group["lr"] for group in optimizer.param_groups] == [lr, lr * 0.75]


def test_wsd_stays_at_its_peak_and_falls_by_one_minus_the_square_root_in_its_last_steps() -> None:
    config = replace(CONFIG, schedule="wsd", decay_steps=4)
    rates = [learning_rate(config, step, NUM_STEPS) for step in range(NUM_STEPS)]
    assert rates[:4] == [learning_rate(CONFIG, step, NUM_STEPS) for step in range(4)]
    assert rates[4:21] == [1e-3] * 17
    parts = [1 - math.sqrt(done / 4) for done in (1, 2, 3, 4)]
    assert parts[0] == 0.5 and parts[-1] == 0
    assert rates[21:] == pytest.approx([1e-5 + (1e-3 - 1e-5) * part for part in parts])
    assert rates[-1] == 1e-5


def test_the_steps_before_a_decay_do_not_depend_on_the_number_of_steps() -> None:
    constant = replace(CONFIG, schedule="constant")
    expected = [learning_rate(constant, step, 1) for step in range(100)]
    for num_steps, decay_steps in ((30, 5), (60, 20), (100, 1)):
        config = replace(CONFIG, schedule="wsd", decay_steps=decay_steps)
        stable = num_steps - decay_steps
        assert [learning_rate(config, step, num_steps) for step in range(stable)] == expected[:stable]
        assert learning_rate(config, stable, num_steps) < expected[stable]


def test_a_schedule_and_its_decay_are_set_together() -> None:
    with pytest.raises(ValueError, match="schedule wsd needs decay_steps; give a tenth to a fifth of num_steps"):
        OptimizerConfig(schedule="wsd")
    for schedule in ("cosine", "constant"):
        with pytest.raises(ValueError, match=f"decay_steps 5 is for schedule wsd, not for {schedule}; set it to 0"):
            OptimizerConfig(schedule=schedule, decay_steps=5)
