"""Learning rate over a run, and of groups that scale it."""

import math

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
