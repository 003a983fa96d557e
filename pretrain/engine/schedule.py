"""The learning rate of a step, and its share for each parameter group."""

import math
from typing import Any

from pretrain.config.run_config import OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of a step: linear warmup, then the schedule, to min_lr at the last step if it decays.

    A function of the step alone, so a checkpoint need not hold a scheduler. Under wsd the steps before the decay, and
    under constant all steps, do not depend on num_steps.
    """
    if step < optimizer.warmup_steps:
        return optimizer.peak_lr * (step + 1) / optimizer.warmup_steps  # the first step moves the weights too
    is_stable = optimizer.schedule == "wsd" and step < num_steps - optimizer.decay_steps
    if is_stable or optimizer.schedule == "constant":
        return optimizer.peak_lr
    remains = _cosine if optimizer.schedule == "cosine" else _one_minus_square_root
    return optimizer.min_lr + (optimizer.peak_lr - optimizer.min_lr) * remains(optimizer, step, num_steps)


def _cosine(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the remaining part of the decay under cosine.

    Source: Loshchilov and Hutter, "SGDR", without restarts, as in BEiT's `cosine_scheduler`
    (github.com/microsoft/unilm, beit/utils.py).
    """
    progress = (step - optimizer.warmup_steps) / max(1, num_steps - 1 - optimizer.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _one_minus_square_root(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the remaining part of the decay under wsd: 1 - sqrt(x), x being the decay's part that is done.

    Source: Haegele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (arXiv
    2405.18392), the cooldown that they found best. The last step of a run has x = 1, as under cosine.
    """
    num_decayed = step + 1 - (num_steps - optimizer.decay_steps)
    return 1 - math.sqrt(num_decayed / optimizer.decay_steps)


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Set each parameter group's learning rate to `lr` times its `lr_scale`.

    optimizer: torch's, or DeepSpeed's around it; its groups are those of `parameter_groups`.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
