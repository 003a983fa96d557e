"""Days, GPU-hours and price, computed by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from model.flops import training_flops
from pretrain.planning.assumptions import GPUS
from pretrain.planning.duration import Speed, duration_lines, in_words, measured_speed, rate_in_words, stated_speed
from tests.pretrain.planning.test_plan import config_for

RUN = Path("runs/x")


def test_a_run_of_a_stated_speed_takes_the_days_computed_by_hand() -> None:
    """A step of F operations on 4 ranks of F / 8 per second each takes 2 s; 259,200 of them 6 days, 576 GPU-hours."""
    config = replace(config_for(4), num_steps=259_200)
    per_step = training_flops(config.model, config.largest_step)
    lines = list(duration_lines(config, 4, Speed(per_step / 8, "assumed", "--mfu 0.5"), per_step / 4, price=2.5))
    found = {line[:30].strip(): (line[30:50].strip(), line[52:]) for line in lines[:-1]}
    assert found.pop("operations of a step")[1].startswith("counted")
    assert found == {
        "steps": ("259,200", "counted: num_steps of the recipe"),
        "a step": ("2.000 s", "assumed: --mfu 0.5"),
        "MFU": ("0.50", "assumed"),
        "the whole run": ("6.0 days", "assumed"),
        "GPU-hours": ("576", "assumed"),
        "price": ("1,440", "assumed, at --price 2.5 per GPU-hour"),
    }


def test_a_cpu_has_no_gpu_hours() -> None:
    text = "\n".join(duration_lines(config_for(4), 2, Speed(1e9, "measured", "a run"), None, None))
    assert "GPU-hours" not in text and "MFU" not in text and "the whole run" in text


def test_an_mfu_is_a_share_of_the_peak() -> None:
    assert stated_speed(0.4, GPUS["a100"]).flops == pytest.approx(124.8e12)
    assert stated_speed(0.4, GPUS["a100"]).kind == "assumed"


def test_a_measured_speed_is_the_median_of_the_steps_that_have_one() -> None:
    rates = [0.1, 300.0, 310.0, 320.0, math.nan, None]  # the first step compiles
    speed = measured_speed([*({"step": step, "tflops_per_rank": rate} for step, rate in enumerate(rates)), {}], RUN)
    assert speed.flops == pytest.approx(305e12) and speed.kind == "measured"
    assert speed.origin == "305 TFLOP/s a rank, the median of 4 steps of runs/x"
    with pytest.raises(ValueError, match="the log of runs/x has no step with a speed"):
        measured_speed([{"step": 0}], RUN)


def test_durations_and_rates_have_units_that_suit_them() -> None:
    assert [in_words(seconds) for seconds in (90, 600, 36_000, 864_000)] == [
        "90.0 seconds", "10.0 minutes", "10.0 hours", "10.0 days",
    ]  # fmt: skip
    assert rate_in_words(2.5e9) == "2.5 GFLOP/s" and rate_in_words(4.12e14) == "412 TFLOP/s"
