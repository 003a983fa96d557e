"""One optimizer step: forward and backward of its micro-steps, the guard, the optimizer. The same for every job."""

from typing import Any

import deepspeed

from pretrain.jobs.job import Step
from pretrain.survival.step_guard import StepGuard
from pretrain.survival.watchdog import Watchdog


def accumulate(
    engine: deepspeed.DeepSpeedEngine, step: Step, guard: StepGuard, watchdog: Watchdog
) -> tuple[dict[str, Any], bool]:
    """Run a step on this rank's part of the global batch; gradients accumulate over its micro-steps.

    Returns, the same on every rank, the start of the log record (`loss`, `losses` and the job's own fields) and whether
    the step was skipped. Tensors in the record are still on the device and are read later (device_copies.py): reading
    them here would make the host wait for the step.
    """
    num_skipped = engine.skipped_steps
    metrics = []
    for number, micro_step in enumerate(step.micro_steps, start=1):
        watchdog.at("forward")
        loss, micro_metrics = step.forward(engine, micro_step)
        metrics.append(micro_metrics)
        if number == len(step.micro_steps):
            # The loss of the global batch is known only now, with one backward left. A factor of NaN there makes the
            # accumulated gradient NaN, and DeepSpeed applies no gradient that is not finite: all ranks skip a spike
            # alike, after the same collectives as in any step, and no host has to decide.
            step_loss = step.reduce(metrics)
            loss = loss * guard.factor(step_loss.total).to(loss.dtype)
        watchdog.at("backward")
        engine.backward(loss)  # under ZeRO it also reduces gradients: a module that one rank left out would hang here
        watchdog.at("optimizer")
        engine.step()  # only the last one updates; DeepSpeed counts the micro-steps
    is_skipped = engine.skipped_steps > num_skipped  # by DeepSpeed's overflow flag, which it sums over ranks
    own = step.after_update(engine, is_applied=not is_skipped)
    return {"loss": step_loss.total, "losses": step_loss.parts} | own, is_skipped
