"""What one rank knows, known to all: every rank takes the same decisions."""

import errno
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

TRANSIENT_ERRNOS = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EREMOTEIO),
    *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH),
)
"""Errors of file systems and networks that a later start may not meet."""

MEETING_SECONDS = 60

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
    """Return an OSError that says what happened, and keeps the number by which another start may mend it or not."""
    told = OSError(sentence)
    told.errno = getattr(error, "errno", None)
    return told


def on_every_rank(action: Callable[[], T]) -> T:
    """Do what can fail on any rank: if it does on one, FatalRunError or RetryableRunError with its sentence on all.

    The action must hold no collective: the others would wait in it for a rank that failed.
    """
    result, message, is_mistake = None, "", True
    try:
        result = action()
    except (ValueError, OSError) as error:
        message = str(error) or repr(error)
        is_mistake = not isinstance(error, RetryableRunError) and getattr(error, "errno", None) not in TRANSIENT_ERRNOS
    except Exception:  # a fault of this rank must not leave the others waiting
        message, is_mistake = traceback.format_exc(), False
    end_together(message, is_mistake)
    return cast(T, result)


def on_main_rank(action: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
    """Call on the main rank alone what can fail there, and return its result, None on the others.

    If it fails, all ranks raise; like `on_every_rank`, the action must hold no collective.
    """
    return on_every_rank(lambda: action(*arguments, **options) if dist.get_rank() == 0 else None)


def end_together(message: str, is_mistake: bool) -> None:
    """Raises FatalRunError, or RetryableRunError where it is no mistake, on every rank where one has a message."""
    per_rank: list[tuple[str, bool]] = [("", True)] * dist.get_world_size()
    dist.all_gather_object(per_rank, (message, is_mistake))
    told = [(said, is_theirs) for said, is_theirs in per_rank if said]
    if told:
        said, is_mistake = told[0]
        raise FatalRunError(said) if is_mistake else RetryableRunError(said)


def met_by_all() -> bool:
    """Whether every rank comes here within seconds: for an error amid collectives, which all meet or one alone."""
    try:
        dist.monitored_barrier(_hosts, timeout=timedelta(seconds=MEETING_SECONDS))
    except RuntimeError:
        return False
    return True


def summed_over_ranks(values: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The same sum on every rank, in place; group: None, all ranks with the device's backend."""
    dist.all_reduce(values, group=group)
    return values


def join_hosts(timeout: timedelta) -> None:
    """Make the group that `summed_over_hosts` works in. All ranks call it, once."""
    global _hosts
    try:
        _hosts = dist.new_group(backend="gloo", timeout=timeout)
    except RuntimeError as error:
        raise RuntimeError(
            f"the ranks do not reach each other over gloo ({error}); set GLOO_SOCKET_IFNAME to the nodes' interface"
        ) from error


def summed_over_hosts(values: list[int]) -> list[int]:
    """The same sums on every rank, agreed on by the hosts while their GPUs compute."""
    return summed_over_ranks(torch.tensor(values, dtype=torch.int64), _hosts).tolist()


def mean_over_ranks(values: Tensor) -> Tensor:
    """The same mean on every rank, in place."""
    return summed_over_ranks(values).div_(dist.get_world_size())
