"""The fewest micro-steps under which a recipe fits a GPU."""

from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.stages import (
    HPZ,
    SHIPPED,
    fewest_micro_steps,
    fitting_settings,
    plan_stage,
    way_of,
    ways_to_share,
)
from tests.pretrain.planning.test_plan import config_for
from tests.support.launch import ROOT
from tests.support.memory_ranks import memory_config


def test_a_gpu_that_is_large_enough_needs_no_further_micro_steps_and_a_tiny_one_has_none() -> None:
    config, memory = config_for(4), memory_config(3)
    total = plan_stage(config, memory, 1).memory.total
    assert fewest_micro_steps(config, memory, 1, 80) == (config.gradient_accumulation_steps, total)
    assert fewest_micro_steps(config, memory, 1, 1e-6) is None


def test_the_given_config_stands_in_place_of_the_shipped_one_of_its_way() -> None:
    memory = memory_config(3)
    ways = ways_to_share(memory)
    assert ways["3"] is memory and list(ways) == list(SHIPPED) == [way_of(way) for way in ways.values()]
    assert ways["1"] == read_memory_config(ROOT / "ds_configs" / "zero1.json")


def test_hpz_is_left_out_if_its_nodes_do_not_divide_the_ranks() -> None:
    config = config_for(8)
    assert [setting.name for setting in fitting_settings(config, memory_config(3), 4, 80)] == ["1", "2", "3"]
    assert [setting.name for setting in fitting_settings(config, memory_config(3), 16, 80)] == ["1", "2", "3", HPZ]
    assert fitting_settings(config, memory_config(3), 16, 1e-6) == []
