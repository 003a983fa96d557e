"""Bounds of single parameters, such as the highest logit_scale: no step of the optimizer leaves a weight outside.

The float32 weights are clamped between the optimizer's update and the moment at which DeepSpeed makes the network's
weights from them. So they are within the bounds in every forward, checkpoint and average, exactly in float32 under
every ZeRO stage, and in bfloat16 up to its rounding. The gradient knows nothing of it: a parameter at its bound moves
back with the first gradient that asks for it, as in open_clip, which clamps logit_scale after each step.
"""

from collections.abc import Mapping
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from model.stacked_vectors import stacked_rows
from pretrain.checkpoints.partitions import places_in_engine, unstacked
from pretrain.engine.optimizer import float32_partitions


def keep_within(engine: deepspeed.DeepSpeedEngine, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Clamp parameters after each step of the optimizer from now on; bounds: lowest and highest value, by name."""
    if not bounds:
        return
    places = unstacked(places_in_engine(engine), stacked_rows(engine.module))
    partitions, rank = float32_partitions(engine.optimizer), dist.get_rank()
    own = [
        (partitions[places[name].group], start, length, low, high)
        for name, (low, high) in bounds.items()
        for owner, start, length in places[name].pieces
        if owner == rank and length
    ]

    @torch.no_grad()
    def clamp(*_: Any) -> None:
        for partition, start, length, low, high in own:
            partition.narrow(0, start, length).clamp_(low, high)

    engine.optimizer.optimizer.register_step_post_hook(clamp)
