"""Plans: memory, traffic, and a remedy if nothing fits."""

from dataclasses import replace

import pytest

from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.plan import default_ranks, plan, verdict
from pretrain.planning.stages import fewest_micro_steps, plan_stages
from tests.support.launch import ROOT
from tests.support.memory_ranks import memory_config, small_config


def config_for(num_ranks: int) -> PretrainConfig:
    config = small_config(num_ranks, 1)
    return replace(
        config,
        model=replace(config.model, depth=1, num_vl_layers=1),
        deepspeed_config=ROOT / "ds_configs" / "zero3.json",
    )


def test_a_plan_has_a_row_per_stage_that_adds_up() -> None:
    lines = plan(config_for(2), 2, 80).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("ZeRO stage"))
    for stage, line in enumerate(lines[start + 1 : start + 4], start=1):
        name, *figures, total, sent = map(float, line.split())
        assert name == stage and sum(figures) == pytest.approx(total, abs=0.04) and sent > 0
    assert "Stage 3 is worth what it sends" in lines[-1]  # a network this small stays gathered


def test_with_micro_steps_stage_3_is_not_worth_its_traffic() -> None:
    config = replace(config_for(4), gradient_accumulation_steps=4)
    stages = plan_stages(config, memory_config(3), 2)
    assert stages[0].sent < stages[2].sent < stages[1].sent
    assert "stage 1 fits 80 GB" in verdict(config, memory_config(3), stages, 2, 80)


def test_a_plan_that_does_not_fit_names_settings_that_do() -> None:
    config, memory = config_for(4), memory_config(3)
    stages = plan_stages(config, memory, 1)
    fitting = fewest_micro_steps(config, memory, 1, stages[2].memory.total / 1e9 * 0.9)
    assert fitting is not None and fitting[0] > 1
    said = verdict(config, memory, stages, 1, stages[2].memory.total / 1e9 * 0.9)
    assert f"--gradient-accumulation-steps {fitting[0]} needs" in said and "checkpointing" in said
    assert "more ranks" in verdict(config, memory, stages, 1, 0.1)


def test_the_default_is_a_node_or_fewer_ranks_that_divide_the_batch() -> None:
    assert default_ranks(config_for(1)) == 2 and default_ranks(config_for(12)) == 8
