"""Memory and traffic of a recipe under each ZeRO stage, and the settings under which it fits a GPU.

room_gb is the memory of a GPU that may be filled, in 1e9 bytes: all of it but the reserve (assumptions.py).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from model.config import Checkpointing, CheckpointingMode, KernelChoice
from pretrain.config.run_config import EncoderRunConfig
from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.kinds import kind_of
from pretrain.planning.memory import RankMemory, count_pieces, planned_kernels, rank_memory
from pretrain.planning.traffic import Collective, collectives, sent_bytes

GPUS_PER_NODE = 8
HPZ = "3, hpZ"
SHIPPED = {"1": "zero1.json", "2": "zero2.json", "3": "zero3.json", HPZ: "zero3_hpz.json"}
"""The file of ds_configs/ for each way of sharing the state between ranks."""
CPU_FILE = "zero3_cpu.json"
"""The file of ds_configs/ for runs without a GPU."""


@dataclass(frozen=True)
class StagePlan:
    """Memory and traffic of a ZeRO stage."""

    stage: int
    memory: RankMemory
    sent: int
    """Bytes that a rank sends per step."""


@dataclass(frozen=True)
class Setting:
    """A way of sharing the state between ranks, with the fewest micro-steps that fit a GPU."""

    name: str
    """A key of SHIPPED."""
    memory_config: dict[str, Any]
    micro_steps: int
    memory: int
    """Bytes per rank."""


def is_for_cpu(config: EncoderRunConfig) -> bool:
    """Return whether a recipe is meant for a machine without a GPU, as its DeepSpeed file says."""
    return config.deepspeed_config.name == CPU_FILE


def plan_stages(config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int) -> list[StagePlan]:
    """Return the plans of stages 1, 2 and 3 with the recipe's micro-steps."""
    ways = ways_to_share(memory_config)
    return [plan_stage(config, ways[name], num_ranks) for name in ("1", "2", "3")]


def ways_to_share(memory_config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the memory configs to compare: those that are shipped, and the given one in place of its own way."""
    return {name: _shipped(file) for name, file in SHIPPED.items()} | {way_of(memory_config): memory_config}


def way_of(memory_config: dict[str, Any]) -> str:
    """Return the key of SHIPPED that a memory config belongs to."""
    zero = memory_config["zero_optimization"]
    return HPZ if zero.get("zero_hpz_partition_size", 1) > 1 else str(zero["stage"])


@cache
def _shipped(file: str) -> dict[str, Any]:
    return read_memory_config(Path("ds_configs") / file)


def fitting_settings(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, room_gb: float
) -> list[Setting]:
    """Return each way of sharing the state that fits a GPU, with the fewest micro-steps."""
    found = []
    for name, way in ways_to_share(memory_config).items():
        if name == HPZ and num_ranks % way["zero_optimization"]["zero_hpz_partition_size"]:
            continue  # nodes of as many ranks do not divide the ranks
        fitting = fewest_micro_steps(config, way, num_ranks, room_gb)
        if fitting is not None:
            found.append(Setting(name, way, *fitting))
    return found


def plan_stage(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, on_cpu: bool = False
) -> StagePlan:
    """Return the plan of the stage that `memory_config` sets."""
    found = step_traffic(config, memory_config, num_ranks)
    kernels: KernelChoice = "reference" if on_cpu else planned_kernels(config)
    memory = rank_memory(config, memory_config, num_ranks, kernels, "cpu" if on_cpu else "cuda")
    return StagePlan(memory_config["zero_optimization"]["stage"], memory, sent_bytes(found))


def step_traffic(config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int) -> list[Collective]:
    """Return the collectives of a step with all its micro-steps, and of what its loss gathers."""
    num_parameters = count_pieces(config, 0).total
    micro_steps, again = config.gradient_accumulation_steps, kind_of(config).num_forwards_again(config)
    zero = collectives(memory_config, num_parameters, config.dtype.itemsize, num_ranks, micro_steps, again)
    return [*zero, *collectives_of_loss(config, num_ranks)]


def collectives_of_loss(config: EncoderRunConfig, num_ranks: int) -> list[Collective]:
    """Return what the loss gathers over the ranks: features of a dual encoder, in pretraining nothing."""
    num_bytes = kind_of(config).gathered_bytes(config)
    return [Collective(num_bytes, 1, num_ranks, 1)] if num_bytes else []


def remedies(config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, room_gb: float) -> Iterator[str]:
    """Yield settings that fit a GPU, the cheapest first: more micro-steps, then activation checkpointing, then stage 3,
    each together with those before it."""
    modes = get_args(CheckpointingMode)
    ways = [(config, memory_config, "")]
    for mode in modes[modes.index(config.activation_checkpointing.mode) + 1 :]:
        lighter = replace(config, activation_checkpointing=Checkpointing(mode))
        ways.append((lighter, memory_config, f" --activation-checkpointing.mode {mode}"))
    if memory_config["zero_optimization"]["stage"] < 3:
        lightest, _, name = ways[-1]
        ways.append((lightest, ways_to_share(memory_config)["3"], f"{name} under stage 3"))
    for way, memory, name in ways:
        fitting = fewest_micro_steps(way, memory, num_ranks, room_gb)
        if fitting is not None:
            steps, total = fitting
            yield f"--gradient-accumulation-steps {steps}{name} needs {total / 1e9:.1f} GB"


def fewest_micro_steps(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, room_gb: float
) -> tuple[int, int] | None:
    """Return the fewest micro-steps that fit a GPU, doubling those of the recipe, and the bytes of a rank; None if no
    number fits."""
    steps = config.gradient_accumulation_steps
    parts = math.gcd(*vars(config.samples_per_step).values())
    while parts % (num_ranks * steps) == 0:
        tried = replace(config, gradient_accumulation_steps=steps)
        total = rank_memory(tried, memory_config, num_ranks, planned_kernels(config)).total
        if total <= room_gb * 1e9:
            return steps, total
        steps *= 2  # batches of recipes are powers of two
    return None


def largest_micro_batch(
    config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int, room_gb: float
) -> tuple[int, int] | None:
    """Return the fewest micro-steps of all that divide the batch and fit a GPU, whatever the recipe has, and the bytes
    of a rank; None if not even one sample of each kind fits."""
    parts = math.gcd(*vars(config.samples_per_step).values()) // num_ranks
    for steps in (steps for steps in range(1, parts + 1) if parts % steps == 0):
        tried = replace(config, gradient_accumulation_steps=steps)
        total = rank_memory(tried, memory_config, num_ranks, planned_kernels(config)).total
        if total <= room_gb * 1e9:
            return steps, total
    return None
