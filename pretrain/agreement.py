"""What one rank knows, known to all: every rank takes the same decisions."""

import traceback
from collections.abc import Callable
from typing import TypeVar, cast

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class AgreedError(ValueError):
    """Raised by every rank alike, with the same sentence: all can end together."""


def on_every_rank(action: Callable[[], T], error: type[AgreedError] = AgreedError) -> T:
    """Do what can fail on any rank: if it does on one, an error of that kind with its sentence on all."""
    result, message = None, ""
    try:
        result = action()
    except (ValueError, OSError) as failure:
        message = str(failure)
    except Exception:  # a fault of ours on one rank must not leave the others waiting
        message = traceback.format_exc()
    messages = [""] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    if any(messages):
        raise error(next(message for message in messages if message))
    return cast(T, result)


def summed_over_ranks(values: Tensor) -> Tensor:
    """The same sum on every rank, in place."""
    dist.all_reduce(values)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """The same mean on every rank, in place."""
    return summed_over_ranks(values).div_(dist.get_world_size())
