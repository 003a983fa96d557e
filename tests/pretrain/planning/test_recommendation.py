"""The setting that a plan recommends, and the options that turn the recipe into it."""

import re
from dataclasses import replace

from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.memory import rank_memory
from pretrain.planning.recommendation import micro_batch_sentence, recommend
from pretrain.planning.stages import fewest_micro_steps, plan_stages
from pretrain.planning.step_times import AssumedMachine, predicted_settings
from tests.pretrain.planning.test_plan import config_for
from tests.support.memory_ranks import memory_config

FAST_HOST = AssumedMachine(GPUS["h100"], Assumptions(host_speed=1e6))


def test_with_micro_steps_and_a_slow_network_stage_1_is_recommended() -> None:
    config = replace(config_for(4), gradient_accumulation_steps=4)
    stages, memory = plan_stages(config, memory_config(3), 2), memory_config(3)
    assert stages[0].sent < stages[2].sent < stages[1].sent
    slow = replace(FAST_HOST, assumed=replace(FAST_HOST.assumed, within_gb=0.1))
    fitting = predicted_settings(config, memory, 2, slow)
    assert [found.setting.name for found in fitting] == ["1", "3", "2"]  # as the bytes that they send
    found = recommend(config, memory, stages, fitting, 2, slow)
    fits = "is predicted to be the fastest that fits 80 GB with 4 GB in reserve: stage 1 with 4 micro-steps"
    assert found.sentence.startswith(f"ds_configs/zero1.json {fits}")
    assert found.found is fitting[0] and found.overrides == ("--deepspeed-config", "ds_configs/zero1.json")


def test_the_recipes_own_file_is_kept_if_it_is_as_fast() -> None:
    config, memory = config_for(2), memory_config(3)
    fitting = predicted_settings(config, memory, 1, FAST_HOST)  # alone nothing is sent
    found = recommend(config, memory, plan_stages(config, memory, 1), fitting, 1, FAST_HOST)
    assert "is predicted to be as fast as any that fits 80 GB with 4 GB in reserve: stage 3" in found.sentence
    assert found.found is not None and found.found.setting.name == "3" and found.overrides == ()


def test_a_plan_that_does_not_fit_names_settings_that_do() -> None:
    config, memory = config_for(4), memory_config(3)
    stages = plan_stages(config, memory, 1)
    room = stages[2].memory.total / 1e9 * 0.9
    fitting = fewest_micro_steps(config, memory, 1, room)
    assert fitting is not None and fitting[0] > 1
    found = recommend(config, memory, stages, [], 1, with_room(room))
    assert f"--gradient-accumulation-steps {fitting[0]} needs" in found.sentence and "checkpointing" in found.sentence
    assert found.found is None
    assert "more ranks" in recommend(config, memory, stages, [], 1, with_room(0.1)).sentence


def test_micro_steps_that_are_needed_to_fit_are_in_the_overrides() -> None:
    config, memory = config_for(4), memory_config(3)
    machine = with_room(plan_stages(config, memory, 1)[2].memory.total / 1e9 * 0.9)
    fitting = predicted_settings(config, memory, 1, machine)
    found = recommend(config, memory, plan_stages(config, memory, 1), fitting, 1, machine)
    assert found.found is not None and found.overrides[-2:] == (
        "--gradient-accumulation-steps", str(found.found.setting.micro_steps),
    )  # fmt: skip


def test_the_largest_micro_batch_gives_the_batch_of_the_recipe() -> None:
    config = replace(config_for(12), gradient_accumulation_steps=2)  # 24 samples of each kind on 2 ranks
    said = micro_batch_sentence(config, memory_config(3), 2, FAST_HOST)
    assert ": 12 images, 12 pairs, 12 texts a rank" in said
    assert "--gradient-accumulation-steps 1 gives the recipe's batch (the recipe has 2)" in said
    whole = rank_memory(replace(config, gradient_accumulation_steps=1), memory_config(3), 2).total / 1e9
    said = micro_batch_sentence(config, memory_config(3), 2, with_room(whole - 1e-6))
    steps = re.search(r"--gradient-accumulation-steps (\d+) ", said)
    assert steps is not None and int(steps[1]) > 1 and f": {12 // int(steps[1])} images" in said
    assert "not even the smallest micro-batch fits" in micro_batch_sentence(config, memory_config(3), 2, with_room(0.1))


def with_room(room_gb: float) -> AssumedMachine:
    """Return a GPU of which so much memory may be filled."""
    return AssumedMachine(replace(GPUS["h100"], memory_gb=room_gb + 4), FAST_HOST.assumed)
