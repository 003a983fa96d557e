"""The ranks that an evaluation outside of a run is shared by: those of a launcher, or this process alone."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from pretrain.evaluation.chunks import Ranks
from pretrain.survival.agreement import on_every_rank

HANG_SECONDS = 1800
"""Longest wait of a rank for the others: one may read slower by far."""
T = TypeVar("T")


@dataclass(frozen=True)
class Launched:
    """This rank, and the device that it computes on."""

    ranks: Ranks
    device: torch.device

    def prepare(self, action: Callable[[], T]) -> T:
        """Return the result of an action that may fail. If it fails on one rank, all raise its error, a ValueError."""
        return on_every_rank(action) if self.ranks.world_size > 1 else action()


@contextmanager
def launched() -> Iterator[Launched]:
    """Join the ranks that deepspeed or torchrun started; without them this process is alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Launched(Ranks(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    from pretrain.engine.engine import init_distributed  # imports DeepSpeed, for seconds

    device = init_distributed(HANG_SECONDS)
    yield Launched(Ranks(dist.get_rank(), dist.get_world_size()), device)
    dist.barrier()  # launchers end all ranks at the first exit
    dist.destroy_process_group()
