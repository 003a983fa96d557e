"""Days, GPU-hours and price of a whole run, at a predicted, a stated or a measured speed.

    step        operations of the model per step / (ranks x operations per second of a rank)
    whole run   num_steps x step
    GPU-hours   ranks x whole run

Operations are those of a step with the longest captions and texts. Starts, evaluation, checkpoints that the run waits
for, and steps repeated after a failure come on top.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.assumptions import Gpu, Origin
from pretrain.planning.kinds import kind_of
from pretrain.planning.sections import fact


@dataclass(frozen=True)
class Speed:
    """Speed of a rank, and where it comes from."""

    flops: float
    """Operations of the model per second."""
    kind: Origin
    origin: str
    """What it is, in words."""


def stated_speed(mfu: float, gpu: Gpu) -> Speed:
    """Return the speed at a stated part of the peak. gpu: in the precision of the run."""
    return Speed(mfu * gpu.peak_tflops * 1e12, "assumed", f"--mfu {mfu:g} of {gpu.peak_tflops:g} TFLOP/s")


def measured_speed(records: Sequence[Mapping[str, Any]], run: Path) -> Speed:
    """Return the median speed of the steps of a run. records: lines of its log. Raises ValueError if none has a speed.

    The median leaves out the slow first steps, and those that waited for a checkpoint.
    """
    found = [record["tflops_per_rank"] for record in records if is_positive(record.get("tflops_per_rank"))]
    if not found:
        raise ValueError(f"the log of {run} has no step with a speed (tflops_per_rank); give a run that has trained")
    rate = median(found) * 1e12
    steps = f"{len(found):,} step{'s' * (len(found) > 1)}"
    return Speed(rate, "measured", f"{rate_in_words(rate)} a rank, the median of {steps} of {run}")


def is_positive(value: object) -> bool:
    """Return whether a value of a log line is a finite number above 0."""
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def rate_in_words(flops: float) -> str:
    """Return operations per second with a unit that suits them."""
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def duration_lines(
    config: EncoderRunConfig, num_ranks: int, speed: Speed, peak_flops: float | None, price: float | None
) -> Iterator[str]:
    """Yield lines on a step and on the whole run. peak_flops: of a GPU; None on a CPU, which has no GPU-hours."""
    per_step = kind_of(config).step_flops(config)
    step_seconds = per_step / (num_ranks * speed.flops)
    seconds = config.num_steps * step_seconds
    yield fact("steps", f"{config.num_steps:,}", "counted: num_steps of the recipe")
    yield fact(
        "operations of a step", f"{per_step:.3g}", "counted: forward and backward, the longest captions and texts"
    )
    yield fact("a step", f"{step_seconds:,.3f} s", f"{speed.kind}: {speed.origin}")
    if peak_flops is not None:
        yield fact("MFU", f"{speed.flops / peak_flops:.2f}", speed.kind)
    yield fact("the whole run", in_words(seconds), speed.kind)
    if peak_flops is not None:
        gpu_hours = num_ranks * seconds / 3600
        yield fact("GPU-hours", f"{gpu_hours:,.0f}" if gpu_hours >= 10 else f"{gpu_hours:.2g}", speed.kind)
        if price is not None:
            yield fact("price", f"{gpu_hours * price:,.0f}", f"{speed.kind}, at --price {price:g} per GPU-hour")
    yield "Not counted: starts, evaluation, waiting for checkpoints, steps repeated after a failure."


def in_words(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    name, size = next(((name, size) for name, size in units if seconds >= 2 * size), ("seconds", 1.0))
    return f"{seconds / size:,.1f} {name}"
