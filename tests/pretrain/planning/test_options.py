"""Options of the planning commands are checked when they are built, as on the command line."""

from pathlib import Path

import pytest

from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.options import PlanOptions, ScalingOptions
from pretrain.planning.scaling import machine_of


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="ranks 0 must be an integer from 1"):
        PlanOptions(ranks=0)
    with pytest.raises(ValueError, match="mfu 0 must be a number from 0.01 to 1"):
        ScalingOptions(mfu=0)


def test_a_machine_has_the_figures_of_its_options() -> None:
    machine = machine_of(ScalingOptions(mfu=0.5, gpu_gb=141.0, between_gb=6.25))
    assert (machine.mfu, machine.gpu_gb, machine.network.between_gb_per_second) == (0.5, 141.0, 6.25)


def test_a_gpu_has_the_figures_of_its_preset_unless_they_are_given() -> None:
    assert PlanOptions(gpu="h200").device == GPUS["h200"]
    given = PlanOptions(gpu_gb=40.0, peak_tflops=312.0, memory_tb=1.5).device
    assert (given.memory_gb, given.peak_tflops, given.memory_tb) == (40.0, 312.0, 1.5)
    assert given.in_precision("float32").peak_tflops == 312.0


def test_an_assumption_out_of_its_range_is_refused() -> None:
    for name, value in {"copy_share": 1e-9, "between_gb": 1e-6, "host_speed": 1e-3, "optimizer_bytes": 1e-3}.items():
        with pytest.raises(ValueError, match=f"{name} {value} must be a number from"):
            Assumptions(**{name: value})
    with pytest.raises(ValueError, match="product_share 1.5 must be a number from 0.01 to 1"):
        Assumptions(product_share=1.5)


def test_two_speeds_are_refused() -> None:
    with pytest.raises(ValueError, match="--mfu and --run both give the speed"):
        PlanOptions(mfu=0.4, run=Path("runs/x"))
