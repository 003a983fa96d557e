"""Small networks under DeepSpeed, trained for a few steps on random inputs."""

from dataclasses import replace
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from model.masked_data_model import MaskedTargets
from model.multiway import MultiwayInputs
from pretrain.config.run_config import OptimizerConfig, RunConfig
from pretrain.engine.engine import build_engine, merged_deepspeed_config
from pretrain.engine.weight_average import update_average
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes.small import demo
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets

Named = dict[str, Tensor]


def small_engine(
    zero: dict[str, Any], optimizer: OptimizerConfig, others: dict[str, Any], **changes: Any
) -> deepspeed.DeepSpeedEngine:
    """Return a tiny network under DeepSpeed.

    zero: its block zero_optimization; others: further blocks; changes: of the run's config.
    """
    count = dist.get_world_size()
    config: RunConfig = replace(
        demo(), optimizer=optimizer, images_per_step=count, pairs_per_step=count, texts_per_step=count, **changes
    )
    memory_config = {"zero_optimization": {"memory_efficient_linear": False, **zero}, **others}
    merged = merged_deepspeed_config(config, memory_config, dist.get_world_size())
    return build_engine(tiny_model().train(), config, merged, Pretraining.leaf_modules, Pretraining.undecayed)


def losses(engine: deepspeed.DeepSpeedEngine, seed: int) -> Tensor:
    """Return the sums of the four losses of a batch, another one for each seed and rank."""
    return engine(*batch(next(engine.module.parameters()).dtype, seed), None)


def plain_losses(weights: Named, dtype: torch.dtype, seed: int) -> Tensor:
    """Return `losses` of the network with the given weights, without DeepSpeed."""
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        return model.to(dtype)(*batch(dtype, seed), None)


def batch(dtype: torch.dtype, seed: int) -> tuple[MultiwayInputs, MaskedTargets]:
    """Return random inputs and targets, others for each seed and rank."""
    inputs = tiny_inputs(2, 2, 2, seed=100 * seed + dist.get_rank())
    inputs = replace(inputs, images=inputs.images.to(dtype))
    return inputs, tiny_targets(inputs, seed)


def train(engine: deepspeed.DeepSpeedEngine, steps: range, decay: float, skipped: tuple[int, ...] = ()) -> list[Named]:
    """Take steps and keep the average; return the weights after each applied one. skipped: steps with a loss of NaN."""
    weights = []
    for step in steps:
        loss = losses(engine, step).sum() * 1e-2
        engine.backward(loss * (torch.nan if step in skipped else 1))
        engine.step()
        if step not in skipped:
            update_average(engine, decay)
            weights.append(full_weights(engine))
    return weights


def full_weights(engine: deepspeed.DeepSpeedEngine) -> Named:
    """Return the float32 weights of all ranks."""
    return {name: safe_get_full_fp32_param(p).clone() for name, p in engine.module.named_parameters()}


def full_average(engine: deepspeed.DeepSpeedEngine) -> Named:
    """Return the average of all ranks."""
    return {name: safe_get_full_optimizer_state(p, "ema").clone() for name, p in engine.module.named_parameters()}


def average_by_hand(initial: Named, weights: list[Named], decay: float, num_before: int = 0) -> Named:
    """Return the average in float64 from the weights after each update. num_before: updates before the first."""
    average = {name: tensor.double() for name, tensor in initial.items()}
    for n, after in enumerate(weights, start=num_before + 1):
        d = min(decay, (1 + n) / (10 + n))
        average = {name: d * average[name] + (1 - d) * after[name].double() for name in average}
    return average


def largest_difference(one: Named, other: Named) -> float:
    """Return the largest difference between two sets of tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)
