"""Memory and traffic of a recipe under each ZeRO stage, and the settings under which it fits a GPU."""

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
    """Memory and traffic of a ZeRO stage."""

    stage: int
    memory: RankMemory
    sent: int
    """Bytes that a rank sends per step."""


def plan_stages(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int) -> list[StagePlan]:
    """Return the plans of stages 1, 2 and 3, with all other settings as in the JSON."""
    return [plan_stage(config, with_stage(memory_config, stage), num_ranks) for stage in (1, 2, 3)]


def plan_stage(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int) -> StagePlan:
    """Return the plan of the stage that `memory_config` sets."""
    num_parameters = count_pieces(config.model, 0).total
    found = collectives(
        memory_config, num_parameters, config.dtype.itemsize, num_ranks, config.gradient_accumulation_steps
    )
    memory = rank_memory(config, memory_config, num_ranks, planned_kernels(config))
    return StagePlan(memory_config["zero_optimization"]["stage"], memory, sent_bytes(found))


def with_stage(memory_config: dict[str, Any], stage: int) -> dict[str, Any]:
    """Return a copy of the config with another ZeRO stage."""
    return memory_config | {"zero_optimization": memory_config["zero_optimization"] | {"stage": stage}}


def remedies(config: PretrainConfig, memory_config: dict[str, Any], num_ranks: int, gpu_gb: float) -> Iterator[str]:
    """Yield settings that fit a GPU, the cheapest first: more micro-steps, then activation checkpointing, then stage 3,
    each together with those before it."""
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
    """Return the fewest micro-steps that fit a GPU, doubling those of the recipe, and the bytes of a rank; None if no
    number fits."""
    steps = config.gradient_accumulation_steps
    parts = math.gcd(*vars(config.samples_per_step).values())
    while parts % (num_ranks * steps) == 0:
        tried = replace(config, gradient_accumulation_steps=steps)
        total = rank_memory(tried, memory_config, num_ranks, planned_kernels(config)).total
        if total <= gpu_gb * 1e9:
            return steps, total
        steps *= 2  # batches of recipes are powers of two
    return None
