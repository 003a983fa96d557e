"""Traffic of ZeRO: the bytes that a rank sends per step, and the seconds that they take on a given network.

In a ring of N ranks each rank sends (N - 1) / N G for an all-gather or a reduce-scatter of G bytes, and twice that for
an all-reduce. With G the bytes of all weights (or gradients, which are as large), DeepSpeed 0.19.8 does:

| | each micro-step | each step |
| --- | --- | --- |
| stage 1 | | all-reduce of the gradients, all-gather of the weights: 3 G |
| stage 2 | all-reduce of the gradients: 2 G | all-gather of the weights: G |
| stage 3 | all-gather in forward and in backward, reduce-scatter: 3 G | |
| stage 3 with hpZ | the same, but the backward's all-gather stays among the ranks of its group | |

Under stage 3 weights that are used again within stage3_max_reuse_distance stay gathered between forward and backward,
and are not gathered again: a network smaller than that distance sends 2 G. (Measured on two ranks for a small network;
for larger ones it is read from DeepSpeed's code.)

Stages 1 and 2 all-reduce a bucket that holds gradients of several ranks' parts (use_multi_rank_bucket_allreduce, on by
default); if it is off, each part is reduced to its own rank, G instead of 2 G, in as many collectives. ZeRO++ (arXiv
2306.10209) counts the same 3 G for stage 3, and the same saving by hpZ.

Between nodes a ring passes from node to node once for every piece of data, and NCCL runs as many rings as a node has
links: of G bytes (1 - 1 / nodes) G leave a node, through all its links together, while (N - 1) / N G leave each GPU.
The slower of the two counts, plus the latency of a message through the ring.
"""

from dataclasses import dataclass
from typing import Any

from pretrain.engine.memory_config import zero_settings


@dataclass(frozen=True)
class Collective:
    """A collective of a step, summed over all calls that it is split into."""

    num_bytes: int
    """Size of the whole tensor that is gathered or reduced."""
    passes: int
    """1 for an all-gather or a reduce-scatter, 2 for an all-reduce."""
    num_ranks: int
    """Ranks that take part."""
    num_pieces: int
    """Calls that it is split into."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that one rank sends."""
        return self.passes * self.num_bytes * (self.num_ranks - 1) // self.num_ranks


@dataclass(frozen=True)
class Network:
    """Bandwidths and latency between GPUs, in one direction."""

    gpus_per_node: int = 8
    within_gb_per_second: float = 450.0
    """GB/s from a GPU to the others of its node. NVLink of an H100: 900 in both directions."""
    between_gb_per_second: float = 50.0
    """GB/s between nodes, per GPU: 50 is a link of 400 Gb/s for each GPU."""
    hop_microseconds: float = 5.0
    """Latency of a message from node to node."""

    def seconds(self, collective: Collective) -> float:
        """Return the seconds of a collective that has the network to itself."""
        ranks, here = collective.num_ranks, min(self.gpus_per_node, collective.num_ranks)
        nodes = -(-ranks // self.gpus_per_node)
        within = (ranks - 1) / ranks * collective.num_bytes / (self.within_gb_per_second * 1e9)
        between = (nodes - 1) / nodes * collective.num_bytes / (here * self.between_gb_per_second * 1e9)
        hops = collective.num_pieces * (nodes - 1) * self.hop_microseconds * 1e-6
        return collective.passes * (max(within, between) + hops)


@dataclass(frozen=True)
class StepCollectives:
    """The collectives of a step that ZeRO makes."""

    forward: tuple[Collective, ...] = ()
    """Those of each micro-step."""
    backward: tuple[Collective, ...] = ()
    """Those of each micro-step."""
    last_backward: tuple[Collective, ...] = ()
    """Those of the last micro-step alone."""
    after_step: tuple[Collective, ...] = ()

    def total(self, num_micro_steps: int, num_forwards_again: int = 0) -> list[Collective]:
        """Return the collectives of all micro-steps; num_forwards_again: forwards of a step besides theirs."""
        forwards = self.forward * (num_micro_steps + num_forwards_again)
        return [*forwards, *self.backward * num_micro_steps, *self.last_backward, *self.after_step]


def step_collectives(
    memory_config: dict[str, Any], num_parameters: int, itemsize: int, world_size: int
) -> StepCollectives:
    """Return the collectives of a step. itemsize: bytes per weight."""
    zero = zero_settings(memory_config)
    num_bytes = itemsize * num_parameters
    reduced = -(-num_parameters // int(zero.reduce_bucket_size))
    if zero.stage == 3:
        gathered = -(-num_parameters // max(1, int(zero.prefetch_bucket_size)))
        group = zero.zero_hpz_partition_size if zero.zero_hpz_partition_size > 1 else world_size
        again = max(0, num_parameters - int(zero.max_reuse_distance))
        regather = Collective(itemsize * again, 1, min(group, world_size), -(-gathered * again // num_parameters))
        reduction = Collective(num_bytes, 1, world_size, reduced)
        return StepCollectives((Collective(num_bytes, 1, world_size, gathered),), (regather, reduction))
    reduction = Collective(num_bytes, 2 if zero.use_multi_rank_bucket_allreduce else 1, world_size, reduced)
    gather = Collective(num_bytes, 1, world_size, -(-num_parameters // int(zero.allgather_bucket_size)))
    if zero.stage == 2:
        return StepCollectives(backward=(reduction,), after_step=(gather,))
    return StepCollectives(last_backward=(reduction,), after_step=(gather,))


def collectives(
    memory_config: dict[str, Any],
    num_parameters: int,
    itemsize: int,
    world_size: int,
    num_micro_steps: int,
    num_forwards_again: int = 0,
) -> list[Collective]:
    """Return the collectives of a step with all its micro-steps. itemsize: bytes per weight; num_forwards_again:
    forwards of a step besides one for each micro-step."""
    found = step_collectives(memory_config, num_parameters, itemsize, world_size)
    return found.total(num_micro_steps, num_forwards_again)


def sent_bytes(found: list[Collective]) -> int:
    """Return the bytes that a rank sends per step."""
    return sum(collective.sent_bytes for collective in found)
