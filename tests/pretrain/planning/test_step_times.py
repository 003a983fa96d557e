"""Predicted steps of recipes: what a stage adds, and the giant on one GPU."""

from dataclasses import replace

import pytest

from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.assumptions import GPUS, Assumptions, GpuName
from pretrain.planning.memory import count_pieces
from pretrain.planning.roofline import ASSUMED, COMMUNICATION, WAITING
from pretrain.planning.step_times import AssumedMachine, sharding_work, step_time
from pretrain.planning.traffic import Network
from pretrain.recipes.beit3 import beit3_giant
from tests.pretrain.planning.test_plan import config_for
from tests.support.launch import ROOT

NETWORK = Network(gpus_per_node=8, within_gb_per_second=1.0, between_gb_per_second=1.0, hop_microseconds=0.0)


def shipped(name: str) -> dict[str, object]:
    return read_memory_config(ROOT / "ds_configs" / name)


def test_stage_3_gathers_every_tensor_once_and_cuts_it_for_all_ranks() -> None:
    config = config_for(4)
    pieces = count_pieces(config, 0)
    added = sharding_work(config, shipped("zero3.json"), 4, NETWORK)
    assert (added.forward.num_gathered, added.forward.gather_ranks) == (pieces.num_tensors, 4)
    assert (added.backward.num_reduced, added.backward.reduce_ranks) == (pieces.num_tensors, 4)
    assert added.backward.num_gathered == 0  # so small a network stays gathered
    assert added.num_updated == pieces.num_tensors and added.after_seconds == 0 and not added.waits_in_forward
    sent = 3 / 4 * 4 * pieces.total / 1e9  # float32
    assert added.forward.communication == pytest.approx(sent)
    assert added.last_backward.communication + added.tail_seconds == pytest.approx(sent)


def test_alone_nothing_is_gathered_and_nothing_is_sent() -> None:
    added = sharding_work(config_for(1), shipped("zero3.json"), 1, NETWORK)
    assert added.forward.num_gathered == 0 and added.last_backward.communication == added.tail_seconds == 0


def test_stage_1_reduces_in_the_last_micro_step_and_gathers_after_the_step() -> None:
    config = config_for(4)
    pieces = count_pieces(config, 0)
    added = sharding_work(config, shipped("zero1.json"), 4, NETWORK)
    sent = 3 / 4 * 4 * pieces.total / 1e9
    assert added.forward.communication == added.backward.communication == 0
    assert added.last_backward.communication + added.tail_seconds == pytest.approx(2 * sent)
    assert added.after_seconds == pytest.approx(sent)
    assert added.backward.num_reduced == 0 and added.last_backward.num_reduced == pieces.num_tensors
    assert added.last_backward.reduce_ranks == 0
    assert added.num_updated == -(-pieces.num_tensors // 4)


def test_hpz_gathers_again_within_the_node_and_waits_in_forward() -> None:
    zero = shipped("zero3_hpz.json")["zero_optimization"]
    assert isinstance(zero, dict)
    config = config_for(16)
    pieces = count_pieces(config, 0)
    memory = {"zero_optimization": zero | {"stage3_max_reuse_distance": pieces.total // 2}}
    added = sharding_work(config, memory, 16, NETWORK)
    assert added.waits_in_forward and added.backward.gather_ranks == 8
    assert added.backward.num_gathered == pytest.approx(pieces.num_tensors / 2, abs=1)


@pytest.mark.parametrize(("gpu", "mfu"), [("h100", 0.37), ("h200", 0.40)])
def test_the_giant_on_one_gpu_has_the_mfu_of_the_formula(gpu: GpuName, mfu: float) -> None:
    """Compare with a sum over the giant's parts by hand-written formulas, not by counting operations: 32 samples of
    each kind, captions of 20 tokens, a host that is never late, activation kernels as slow as they were when the
    formulas were written; 583 ms on an H100 and 539 ms on an H200."""
    giant = beit3_giant()
    config = replace(
        giant, data=replace(giant.data, caption_length=20), images_per_step=32, pairs_per_step=32, texts_per_step=32
    )
    assumed = Assumptions(host_speed=1e6, activation_forward_tb=1.8, activation_backward_tb=2.3)
    machine = AssumedMachine(GPUS[gpu], assumed)
    time = step_time(config, shipped("zero3.json"), 1, machine)
    assert time.mfu == pytest.approx(mfu, abs=0.01)
    assert time.parts["products"] == pytest.approx(0.3428, rel=0.03)  # the heads among them
    assert time.parts["attention forward"] + time.parts["attention backward"] == pytest.approx(0.0532, rel=0.03)
    assert time.parts["activation forward"] + time.parts["activation backward"] == pytest.approx(0.0469, rel=0.03)
    assert time.parts[COMMUNICATION] == time.parts[WAITING] == 0 and set(time.parts) == set(ASSUMED)


def test_a_recipe_in_float32_has_the_peak_of_float32() -> None:
    machine = AssumedMachine(GPUS["h100"], Assumptions(host_speed=1e6))
    config = config_for(1)
    slow, fast = (
        step_time(replace(config, precision=precision), shipped("zero3.json"), 1, machine)
        for precision in ("float32", "bfloat16")
    )
    assert slow.peak_flops == 67e12 and fast.peak_flops == 989e12
    assert slow.parts["products"] > 5 * fast.parts["products"]
