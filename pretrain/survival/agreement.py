"""Agreement between ranks, so that every rank takes the same decisions.

A rank that raised, stopped or skipped by itself would leave the others waiting in their next collective until it times
out. So an error of one rank is gathered and raised by all, and flags and counts are summed before anyone acts on them.
"""

import errno
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.survival.out_of_memory import is_out_of_memory, lack_in_words

TRANSIENT_ERRNOS = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EREMOTEIO),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH),
)
"""Errors of file systems and networks that may be gone at the next start."""

MEETING_SECONDS = 60
"""Longest wait for the other ranks in `met_by_all`."""

P = ParamSpec("P")
T = TypeVar("T")
_hosts: dist.ProcessGroup | None = None


class RunError(ValueError):
    """Raised by every rank with the same sentence, so that all end together."""


class FatalRunError(RunError):
    """Raised if another start would meet the same error: a mistake in the config, the data or the run folder."""


class RetryableRunError(RunError):
    """Raised if another start may succeed: a file system or a network failed for the moment."""


def in_words(error: Exception, sentence: str) -> OSError:
    """Return an OSError with that sentence and the errno of the error, which decides whether another start may help."""
    explained = OSError(sentence)
    explained.errno = getattr(error, "errno", None)
    return explained


def on_every_rank(action: Callable[[], T]) -> T:
    """Return the result of an action that may fail on any rank. If it fails on one, all raise its error.

    Raises FatalRunError or RetryableRunError with the sentence of the first rank that failed. The action must hold no
    collective: the others would wait in it for a rank that failed.
    """
    result, message, is_mistake = None, "", True
    try:
        result = action()
    except (ValueError, OSError) as error:
        message = str(error) or repr(error)
        is_mistake = not isinstance(error, RetryableRunError) and getattr(error, "errno", None) not in TRANSIENT_ERRNOS
    except Exception as error:  # a bug; shown in full, and possibly one of this node alone
        message = lack_in_words(error) if is_out_of_memory(error) else traceback.format_exc()
        is_mistake = False
    end_together(message, is_mistake)
    return cast(T, result)


def on_main_rank(action: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
    """Call on the main rank alone what can fail there, and return its result, None on the others.

    If it fails, all ranks raise; like `on_every_rank`, the action must hold no collective.
    """
    return on_every_rank(lambda: action(*arguments, **options) if dist.get_rank() == 0 else None)


def end_together(message: str, is_mistake: bool) -> None:
    """Raise on every rank if any of them has a message: FatalRunError for a mistake, else RetryableRunError."""
    per_rank: list[tuple[str, bool]] = [("", True)] * dist.get_world_size()
    dist.all_gather_object(per_rank, (message, is_mistake))
    if found := [(text, is_fatal) for text, is_fatal in per_rank if text]:
        text, is_fatal = found[0]
        raise FatalRunError(text) if is_fatal else RetryableRunError(text)


def met_by_all() -> bool:
    """Return whether every rank gets here within MEETING_SECONDS.

    Tells an error that all ranks share from one of this rank alone, after code that holds collectives.
    """
    try:
        dist.monitored_barrier(_hosts, timeout=timedelta(seconds=MEETING_SECONDS))
    except RuntimeError:
        return False
    return True


def summed_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sum a tensor over ranks in place and return it, the same on each. group: None for all ranks, on the device."""
    dist.all_reduce(values, group=group)
    return values


def gathered_from_ranks(values: Tensor) -> Tensor:
    """Return the tensors (b, ...) of all ranks one after the other, (ranks * b, ...), the same on each."""
    gathered = values.new_empty(dist.get_world_size() * len(values), *values.shape[1:])
    dist.all_gather_into_tensor(gathered, values.contiguous())
    return gathered


def join_hosts(timeout: timedelta) -> None:
    """Make the group of `summed_over_hosts`, once; all ranks call it. Raises RuntimeError if gloo cannot connect."""
    global _hosts
    try:
        _hosts = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        raise RuntimeError(
            f"the ranks do not reach each other over gloo ({error}); set GLOO_SOCKET_IFNAME to the nodes' interface"
        ) from error


def summed_over_hosts(values: list[int]) -> list[int]:
    """Return sums over ranks, through gloo: the hosts agree while their GPUs compute, which NCCL would wait for."""
    return summed_over_ranks(torch.tensor(values, dtype=torch.int64), _hosts).tolist()


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor over ranks in place and return it, the same on each."""
    return summed_over_ranks(values).div_(dist.get_world_size())
