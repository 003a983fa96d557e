"""Scaling on paper names its assumptions and its limits."""

from dataclasses import replace

from pretrain.planning.options import ScalingOptions
from pretrain.planning.scaling import Machine, header, scaling
from pretrain.planning.traffic import Network
from pretrain.run.speed import PEAK_TFLOPS
from tests.pretrain.planning.test_plan import config_for

NETWORK = Network(gpus_per_node=8)


def test_the_default_gpu_has_the_peak_that_runs_measure_mfu_against() -> None:
    assert ScalingOptions().peak_tflops == PEAK_TFLOPS["H100"]


def test_scaling_names_its_assumptions_and_the_first_limit() -> None:
    config = config_for(8)  # 16 samples of each kind
    table = scaling(config, Machine(mfu=0.5, peak_tflops=989, gpu_gb=80, reserve_gb=4, network=NETWORK))
    assert "Assumed, not measured: MFU 0.5" in table
    assert [line.split()[0] for line in table.splitlines() if "%" in line] == ["8", "16"]
    assert "16 GPUs: one sample of each kind a GPU" in table
    assert "longer than it computes" in table  # a small model


def test_a_setting_that_would_fill_the_reserve_is_left_out() -> None:
    config = config_for(8)
    machine = Machine(mfu=0.5, peak_tflops=989, gpu_gb=4.001, reserve_gb=4, network=NETWORK)
    assert "hold no setting" in scaling(config, machine)
    assert "hold no setting" not in scaling(config, replace(machine, reserve_gb=0.1))


def test_the_column_says_by_what_its_setting_is_chosen() -> None:
    assert "communicates least" in header() and "best" not in header()
