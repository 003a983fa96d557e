"""The exponential moving average of the weights, on each rank for its part of them, in float32.

    average <- d average + (1 - d) weights   after each applied step,   d = min(decay, (1 + n) / (10 + n))

n is the number of applied steps: the average follows the weights closely at first and forgets the initial ones. Source
of the warmup: timm's ModelEmaV3 and TensorFlow's ExponentialMovingAverage; of averaging: Polyak and Juditsky, 1992.

It is one more state of the optimizer beside the two moments, so that DeepSpeed saves it with them, partitioned under
every stage, and resharding treats it like them (checkpoints/elastic.py). It changes nothing that is trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.engine.gather_order import wait_for_writes
from pretrain.engine.optimizer import empty_state, float32_partitions
from pretrain.survival.agreement import RunError

AVERAGE = "ema"
"""Name of the state in DeepSpeed's files."""
DROPPED = "optimizer.ema_decay is 0: the checkpoint's average of the weights is dropped"
EXCHANGED_AT_ONCE = 1 << 24
"""Elements of a partition that are exchanged at once: 64 MiB beside it."""


def decay_of_update(decay: float, num_updates: int) -> float:
    """Return the decay of the average after `num_updates` applied steps, the last one included."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


def has_average(engine: deepspeed.DeepSpeedEngine) -> bool:
    """Return whether the engine keeps an average. The same on every rank."""
    return all(AVERAGE in state for _, state in _states(engine))


def num_updates(engine: deepspeed.DeepSpeedEngine) -> int:
    """Return the number of applied steps of the run."""
    return engine.global_steps - engine.skipped_steps


@torch.no_grad()
def settle_average(engine: deepspeed.DeepSpeedEngine, decay: float) -> str:
    """Start the average from the current weights if the run keeps one and there is none; drop it if the run keeps none.

    Called once, when the engine has its first or its loaded state. Returns what was done to a resumed run, for the
    user; empty if nothing.
    """
    done, is_there = num_updates(engine), has_average(engine)
    if (decay > 0) == is_there:
        return ""
    for partition, state in _states(engine):
        if decay == 0:
            del state[AVERAGE]
            continue
        if not state:  # before the first step: an optimizer that finds a state does not make its own
            state.update(empty_state(engine.optimizer.optimizer, partition, done))
        state[AVERAGE] = partition.detach().clone()
    _link_again(engine.optimizer)
    if decay == 0:
        return DROPPED
    return f"the average of the weights starts from those after {done} updates" if done else ""


@torch.no_grad()
def update_average(engine: deepspeed.DeepSpeedEngine, decay: float) -> None:
    """Move the average, if the run keeps one, towards the weights. Called after each applied step."""
    if decay == 0:
        return
    share = 1 - decay_of_update(decay, num_updates(engine))
    for partition, state in _states(engine):
        state[AVERAGE].lerp_(partition.detach(), share)


@contextmanager
def averaged_weights(engine: deepspeed.DeepSpeedEngine) -> Iterator[None]:
    """Compute with the average in the block, between two steps; afterwards everything is as before, to the bit.

    All ranks call it: it holds collectives. The weights that forward uses are made from float32 ones in the same way as
    after a step, so they return to the same bits. If the block raises an error of one of several ranks alone, which
    ends the run, only its float32 weights return: a collective would wait for ranks that are elsewhere. Raises
    ValueError if there is no average.
    """
    if not has_average(engine):
        raise ValueError("the run keeps no average of its weights; set optimizer.ema_decay, such as 0.9999")
    _exchange(engine)
    _publish(engine)
    try:
        yield
    except BaseException as error:
        _exchange(engine)
        if isinstance(error, RunError) or dist.get_world_size() == 1:  # RunError: the same on every rank
            _publish(engine)
        raise
    _exchange(engine)
    _publish(engine)


def _states(engine: deepspeed.DeepSpeedEngine) -> list[tuple[Tensor, dict[str, Any]]]:
    """Return this rank's partitions of float32 weights, each with the optimizer's state of it, perhaps still empty."""
    optimizer = engine.optimizer
    return [(partition, optimizer.optimizer.state[partition]) for partition in float32_partitions(optimizer)]


def _link_again(optimizer: Any) -> None:
    """Let DeepSpeed's access to single parameters see the states as they are now. Stage 3 looks them up each time."""
    if getattr(optimizer, "_hp_optimizer_states_linked", False):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


@torch.no_grad()
def _exchange(engine: deepspeed.DeepSpeedEngine) -> None:
    """Exchange the float32 weights and the average, piece by piece."""
    for partition, state in _states(engine):
        for weights, average in zip(
            partition.detach().split(EXCHANGED_AT_ONCE), state[AVERAGE].split(EXCHANGED_AT_ONCE), strict=True
        ):
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)


@torch.no_grad()
def _publish(engine: deepspeed.DeepSpeedEngine) -> None:
    """Make the weights of the network from the float32 ones, as DeepSpeed 0.19.8 does at the end of a step."""
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() < 3:
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()  # drops gathered weights, which are the others
    for group in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    optimizer.invalidate_secondary_tensor()  # hpZ's copies of them
    if optimizer.persistent_parameters:  # small ones, which stay gathered
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
    wait_for_writes(engine)
