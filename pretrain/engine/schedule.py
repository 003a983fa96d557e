"""The learning rate of a step, and its share for each parameter group."""

import math
from typing import Any

from pretrain.config.run_config import OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step: linear warmup, then cosine decay to min_lr at the last step.

    A function of the step alone, so a checkpoint need not hold a scheduler. Source: the cosine of Loshchilov and
    Hutter, "SGDR", without restarts, as in BEiT's `cosine_scheduler` (github.com/microsoft/unilm, beit/utils.py).
    """
    if step < optimizer.warmup_steps:
        return optimizer.peak_lr * (step + 1) / optimizer.warmup_steps  # the first step moves the weights too
    progress = (step - optimizer.warmup_steps) / max(1, num_steps - 1 - optimizer.warmup_steps)
    return optimizer.min_lr + (optimizer.peak_lr - optimizer.min_lr) * 0.5 * (
        1 + math.cos(math.pi * min(1.0, progress))
    )


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Set each parameter group's learning rate to `lr` times its `lr_scale`.

    optimizer: torch's, or DeepSpeed's around it; its groups are those of `parameter_groups`.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
