"""Plans: memory, traffic, and a remedy if nothing fits."""

import re
from dataclasses import replace

import pytest

from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.plan import compared_ranks, default_ranks, plan, verdict
from pretrain.planning.stages import fewest_micro_steps, plan_stages
from pretrain.planning.step_times import AssumedMachine, predicted_settings
from tests.support.launch import ROOT
from tests.support.memory_ranks import memory_config, small_config

H100 = AssumedMachine(GPUS["h100"], Assumptions())
FAST_HOST = AssumedMachine(GPUS["h100"], Assumptions(host_speed=1e6))


def config_for(num_ranks: int) -> PretrainConfig:
    config = small_config(num_ranks, 1)
    return replace(
        config,
        model=replace(config.model, depth=1, num_vl_layers=1),
        deepspeed_config=ROOT / "ds_configs" / "zero3.json",
    )


def test_a_plan_has_a_row_per_stage_and_a_part_table_that_add_up() -> None:
    lines = plan(config_for(2), 2, H100).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("ZeRO stage"))
    for stage, line in enumerate(lines[start + 1 : start + 4], start=1):
        name, *figures, total, sent = map(float, line.split())
        assert name == stage and sum(figures) == pytest.approx(total, abs=0.04) and sent > 0
    start = next(number for number, line in enumerate(lines) if line.startswith("part "))
    end = next(number for number, line in enumerate(lines) if line.startswith("step "))
    parts = [float(line[34:44]) for line in lines[start + 1 : end]]
    assert len(parts) == 12 and sum(parts) == pytest.approx(float(lines[end][34:44]), abs=1)
    rows = [line.split() for line in lines if re.match(r" +2 +\d ", line)]
    assert [row[1] for row in rows] == ["1", "2", "3"]  # the fastest first; hpZ needs nodes of 8
    assert "ds_configs/zero1.json is predicted to be the fastest" in lines[-1]


def test_with_micro_steps_and_a_slow_network_stage_1_is_recommended() -> None:
    config = replace(config_for(4), gradient_accumulation_steps=4)
    stages, memory = plan_stages(config, memory_config(3), 2), memory_config(3)
    assert stages[0].sent < stages[2].sent < stages[1].sent
    slow = replace(FAST_HOST, assumed=replace(FAST_HOST.assumed, within_gb=0.1))
    fitting = predicted_settings(config, memory, 2, slow)
    assert [found.setting.name for found in fitting] == ["1", "3", "2"]  # as the bytes that they send
    said = verdict(config, memory, stages, fitting, 2, 80)
    assert said.startswith("ds_configs/zero1.json is predicted to be the fastest that fits 80 GB: stage 1 with 4 micro")


def test_the_recipes_own_file_is_kept_if_it_is_as_fast() -> None:
    config, memory = config_for(2), memory_config(3)
    fitting = predicted_settings(config, memory, 1, FAST_HOST)  # alone nothing is sent
    said = verdict(config, memory, plan_stages(config, memory, 1), fitting, 1, 80)
    assert "is predicted to be as fast as any that fits 80 GB: stage 3" in said


def test_a_plan_that_does_not_fit_names_settings_that_do() -> None:
    config, memory = config_for(4), memory_config(3)
    stages = plan_stages(config, memory, 1)
    fitting = fewest_micro_steps(config, memory, 1, stages[2].memory.total / 1e9 * 0.9)
    assert fitting is not None and fitting[0] > 1
    said = verdict(config, memory, stages, [], 1, stages[2].memory.total / 1e9 * 0.9)
    assert f"--gradient-accumulation-steps {fitting[0]} needs" in said and "checkpointing" in said
    assert "more ranks" in verdict(config, memory, stages, [], 1, 0.1)


def test_the_default_is_a_node_or_fewer_ranks_that_divide_the_batch() -> None:
    assert default_ranks(config_for(1)) == 2 and default_ranks(config_for(12)) == 8


def test_the_given_ranks_are_compared_with_those_that_divide_the_batch() -> None:
    assert compared_ranks(config_for(12), 2) == [2, 8]  # 24 samples of each kind
    assert compared_ranks(replace(config_for(12), gradient_accumulation_steps=2), 3) == [3]
