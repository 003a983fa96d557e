"""The network of an engine with all of its weights on every rank, for work whose length the ranks cannot agree on.

Under ZeRO-3 a rank holds a part of each weight, and modules gather the rest in forward, all ranks together. A beam
search runs until its captions end, which is sooner on one rank than on another: it needs a network of its own.
"""

from typing import TypeVar

import deepspeed
import torch
from torch import nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def is_partitioned(engine: deepspeed.DeepSpeedEngine) -> bool:
    """Return whether each rank holds only a part of the weights."""
    return bool(engine.zero_optimization_partition_weights())


@torch.no_grad()
def fill_from_partitions(engine: deepspeed.DeepSpeedEngine, network: NetworkT) -> NetworkT:
    """Return a network, on the engine's device and in its precision, with the weights of the engine's. All ranks call
    it.

    network: of the same class and sizes, on any device, its values arbitrary. Weights are gathered one by one, so that
    there is no moment with more than the copy and the largest of them.
    """
    source, device = engine.module, engine.device
    dtypes = {name: parameter.dtype for name, parameter in source.named_parameters()}
    network = network.to_empty(device=device)
    copies = dict(network.named_parameters())
    assert copies.keys() == dtypes.keys(), "another network"
    for name, parameter in source.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            copies[name].data = parameter.detach().to(device, copy=True)
    for (name, buffer), (_, own) in zip(network.named_buffers(), source.named_buffers(), strict=True):
        assert buffer.shape == own.shape, name
        buffer.data = own.detach().to(device, copy=True)
    return network.requires_grad_(False)
