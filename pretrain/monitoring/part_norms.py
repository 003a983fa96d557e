"""Norms of gradients and weights of each part of the network, such as each expert, at some of the steps.

Each rank adds up the squares of what it owns: DeepSpeed's float32 partitions, at the moment at which the optimizer
updates them, the only one at which the whole gradient is there under every ZeRO stage. One small all-reduce adds the
ranks. Nothing is read from the device.

The norms of all parts together give `grad_norm`, the norm before clipping: the factor by which DeepSpeed has clipped is
undone.
"""

from collections.abc import Callable
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from model.stacked_vectors import stacked_rows
from pretrain.checkpoints.partitions import places_in_engine, unstacked
from pretrain.engine.optimizer import float32_partitions
from pretrain.survival.agreement import summed_over_ranks

CLIP_EPS = 1e-6
"""What DeepSpeed adds to the norm when it clips."""

Segment = tuple[int, int]
"""First element and number of elements in a partition."""


class PartNorms:
    """Norms by part, of every Nth step. All ranks make one at the same time and call every method alike."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine, part_of: Callable[[str], str], every_steps: int):
        """part_of: the part that a parameter counts to, by its name; every_steps: 0 for never."""
        self._every_steps = every_steps
        self._clip: float = engine.gradient_clipping()
        self._device = engine.device
        self._is_due = False
        places = unstacked(places_in_engine(engine), stacked_rows(engine.module))
        self.parts = sorted({part_of(name) for name in places})
        partitions = float32_partitions(engine.optimizer)
        self._segments = {id(partition): [list[Segment]() for _ in self.parts] for partition in partitions}
        self._partitions = partitions  # kept, so that their ids stay theirs
        rank = dist.get_rank()
        for name, place in places.items():
            own = [(start, length) for owner, start, length in place.pieces if owner == rank and length]
            self._segments[id(partitions[place.group])][self.parts.index(part_of(name))] += own
        for by_part in self._segments.values():
            by_part[:] = map(joined, by_part)
        self._squares: list[Tensor] = []
        if every_steps:
            engine.optimizer.optimizer.register_step_pre_hook(self._measure)

    def begin(self, step: int) -> None:
        """Measure in this step if it is due."""
        self._is_due = bool(self._every_steps) and step % self._every_steps == 0
        self._squares = []

    def fields(self, grad_norm: Tensor | float) -> dict[str, dict[str, Tensor]]:
        """Return the fields of the log record of a step that was measured and applied; else none.

        grad_norm: of the whole gradient, before clipping.
        """
        if not self._squares:  # on every rank: a step is applied on all or on none
            return {}
        squares = sum(self._squares, start=torch.zeros(2, len(self.parts), device=self._device))
        grads, weights = summed_over_ranks(squares).sqrt()
        if self._clip:
            norm = torch.as_tensor(grad_norm, dtype=torch.float32, device=self._device)
            grads = grads * ((norm + CLIP_EPS) / self._clip).clamp(min=1)
        return {name: dict(zip(self.parts, of_all.unbind(), strict=True)) for name, of_all in
                (("grad_norms", grads), ("weight_norms", weights))}  # fmt: skip

    @torch.no_grad()
    def _measure(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Add up squares of the partitions that the optimizer is about to update, one call or more per step."""
        if not self._is_due:
            return
        for partition in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            by_part = self._segments[id(partition)]
            norms = [[_norm(tensor, part) for part in by_part] for tensor in (partition.grad, partition)]
            squares = torch.stack([torch.stack(of_tensor) for of_tensor in norms]).square()
            self._squares.append(squares.to(self._device, non_blocking=True))


def joined(segments: list[Segment]) -> list[Segment]:
    """Return the same elements in as few segments as possible: each costs the launch of a kernel or a part of one."""
    found: list[Segment] = []
    for start, length in sorted(segments):
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((start, length))
    return found


def _norm(flat: Tensor, segments: list[Segment]) -> Tensor:
    """Return the norm of parts of a flat tensor, still on its device."""
    if not segments:
        return flat.new_zeros(())
    return get_total_norm([flat.narrow(0, *segment) for segment in segments])
