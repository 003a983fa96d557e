"""ZeRO's stages compared for a recipe: memory and traffic of each, and what makes a recipe fit that does not."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from model.config import Checkpointing, CheckpointingMode
from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.memory import RankMemory, count_pieces, planned_kernels, rank_memory
from pretrain.planning.traffic import collectives, sent_bytes

GPUS_PER_NODE = 8


@dataclass(frozen=True)
class StagePlan:
    """A ZeRO stage on so many ranks."""

    stage: int
    memory: RankMemory
    sent: int
    """Bytes by a rank, in a step."""


def plan_stages(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int) -> list[StagePlan]:
    """Of stages 1, 2 and 3, all else as the JSON has it."""
    return [plan_stage(config, with_stage(memory_config, stage), num_ranks) for stage in (1, 2, 3)]


def plan_stage(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int) -> StagePlan:
    num_parameters = count_pieces(config.model, 0).total
    found = collectives(
        memory_config, num_parameters, config.dtype.itemsize, num_ranks, config.gradient_accumulation_steps
    )
    memory = rank_memory(config, memory_config, num_ranks, planned_kernels(config))
    return StagePlan(memory_config["zero_optimization"]["stage"], memory, sent_bytes(found))


def with_stage(memory_config: dict[str, Any], stage: int) -> dict[str, Any]:
    return memory_config | {"zero_optimization": memory_config["zero_optimization"] | {"stage": stage}}


def remedies(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int, gpu_gb: float) -> Iterator[str]:
    """What fits, first what costs least: more micro-steps, then checkpointing, then stage 3, each with those before."""
    modes = get_args(CheckpointingMode)
    ways = [(config, memory_config, "")]
    for mode in modes[modes.index(config.activation_checkpointing.mode) + 1 :]:
        lighter = replace(config, activation_checkpointing=Checkpointing(mode))
        ways.append((lighter, memory_config, f" --activation-checkpointing.mode {mode}"))
    if memory_config["zero_optimization"]["stage"] < 3:
        lightest, _, name = ways[-1]
        ways.append((lightest, with_stage(memory_config, 3), f"{name} under stage 3"))
    for way, memory, name in ways:
        fitting = fewest_micro_steps(way, memory, num_ranks, gpu_gb)
        if fitting is not None:
            steps, total = fitting
            yield f"--gradient-accumulation-steps {steps}{name} needs {total / 1e9:.1f} GB"


def fewest_micro_steps(
    config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int, gpu_gb: float
) -> tuple[int, int] | None:
    """Micro-steps, doubled from those of the recipe, that fit a GPU, and bytes of a rank. None: no number does."""
    steps = config.gradient_accumulation_steps
    parts = math.gcd(*vars(config.samples_per_step).values())
    while parts % (num_ranks * steps) == 0:
        tried = replace(config, gradient_accumulation_steps=steps)
        total = rank_memory(tried, memory_config, num_ranks, planned_kernels(config)).total
        if total <= gpu_gb * 1e9:
            return steps, total
        steps *= 2
    return None
