"""Configuration of DeepSpeed, and the parts of tensors that ranks hold. CPU, seconds."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pretrain.engine.engine import (
    check_accepted,
    check_alike,
    may_pass,
    merged_deepspeed_config,
    own_partition,
    state_device,
)
from pretrain.recipes.small import demo
from tests.support.mistakes import only_rank

ZERO = {"zero_optimization": {"stage": 3}}


def test_batch_clipping_and_precision_come_from_the_recipe_and_all_else_from_the_file() -> None:
    config = replace(demo(), gradient_accumulation_steps=2, precision="bfloat16")
    merged = merged_deepspeed_config(config, {**ZERO, "communication_data_type": "fp32"}, world_size=2)
    assert merged["train_batch_size"] == config.samples_per_step.total == 4 * merged["train_micro_batch_size_per_gpu"]
    assert merged["gradient_accumulation_steps"] == 2
    assert merged["gradient_clipping"] == config.optimizer.gradient_clip
    assert merged["bf16"]["enabled"] and merged["communication_data_type"] == "fp32"
    assert not merged_deepspeed_config(config, ZERO, 2, bfloat16_weights=False)["bf16"]["enabled"]
    assert not merged_deepspeed_config(replace(config, precision="float32"), ZERO, 2)["bf16"]["enabled"]
    check_accepted(merged_deepspeed_config(config, ZERO, world_size=1))


def test_settings_that_the_recipe_owns_and_a_batch_that_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="sets gradient_clipping, which the recipe owns; remove it there"):
        merged_deepspeed_config(demo(), {**ZERO, "gradient_clipping": 1.0}, 1)
    with pytest.raises(
        ValueError, match=r"_per_step \d+ must be a multiple of 7 ranks x gradient_accumulation_steps 1;"
    ):
        merged_deepspeed_config(demo(), ZERO, 7)


def test_a_configuration_that_deepspeed_refuses_is_reported_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^DeepSpeed refuses the configuration: .*") as refused:
        check_accepted({"train_batch_size": 3, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1})
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
def test_parts_of_a_parameter_are_equal_and_the_last_is_padded(num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.arange(1.0, 8.0).view(7, 1)
    part = -(-7 // num_ranks)
    parameter: Any = SimpleNamespace(partition_numel=lambda: part, ds_process_group=None)
    parts = []
    for rank in range(num_ranks):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group=None, rank=rank: rank)
        parts.append(own_partition(parameter, full))
    assert all(len(each) == part for each in parts)
    assert torch.cat(parts).tolist() == [*range(1, 8)] + [0] * (num_ranks * part - 7)


def test_the_optimizer_state_is_on_the_cpu_without_a_gpu_or_if_it_is_offloaded() -> None:
    assert state_device({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}).type == "cpu"
    assert state_device(ZERO).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_errors_that_may_not_recur_at_another_start() -> None:
    assert may_pass(OSError()) and may_pass(torch.OutOfMemoryError()) and may_pass(RuntimeError())
    assert not may_pass(NotImplementedError()) and not may_pass(AssertionError()) and not may_pass(ValueError())


def test_one_rank_agrees_with_itself() -> None:
    with only_rank():
        check_alike("optimizers", "torch", "set optimizer.implementation to torch")
