"""The fewest micro-steps under which a recipe fits a GPU."""

from pretrain.planning.stages import fewest_micro_steps, plan_stage, with_stage
from tests.pretrain.planning.test_plan import config_for
from tests.support.memory_ranks import memory_config


def test_a_gpu_that_is_large_enough_needs_no_further_micro_steps_and_a_tiny_one_has_none() -> None:
    config, memory = config_for(4), memory_config(3)
    total = plan_stage(config, memory, 1).memory.total
    assert fewest_micro_steps(config, memory, 1, 80) == (config.gradient_accumulation_steps, total)
    assert fewest_micro_steps(config, memory, 1, 1e-6) is None


def test_another_stage_leaves_the_rest_of_the_config_as_it_is() -> None:
    memory = memory_config(3)
    first = with_stage(memory, 1)
    assert first["zero_optimization"]["stage"] == 1 and memory["zero_optimization"]["stage"] == 3
    assert with_stage(first, 3) == memory
