"""Scaling on paper names its assumptions and its limits."""

from dataclasses import replace

from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.scaling import Machine, scaling
from pretrain.planning.traffic import Network
from tests.support.launch import ROOT
from tests.support.memory_ranks import small_config

NETWORK = Network(gpus_per_node=8)


def config_for(num_ranks: int) -> PretrainConfig:
    config = small_config(num_ranks, 1)
    return replace(
        config,
        model=replace(config.model, depth=1, num_vl_layers=1),
        deepspeed_config=ROOT / "ds_configs" / "zero3.json",
    )


def test_scaling_names_its_assumptions_and_what_breaks_first() -> None:
    config = config_for(8)  # 16 samples of each kind
    table = scaling(config, Machine(mfu=0.5, peak_tflops=989, gpu_gb=80, network=NETWORK))
    assert "Assumed, not measured: MFU 0.5" in table
    assert [line.split()[0] for line in table.splitlines() if "%" in line] == ["8", "16"]
    assert "16 GPUs: one sample of each kind a GPU" in table
    assert "longer than it computes" in table  # so small a model
