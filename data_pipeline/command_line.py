"""What every command that takes options has in common."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from tqdm import tqdm

from settings.parsing import HelpRequest, parse_options

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent dies."""

Options = TypeVar("Options")


def run_command(options_type: type[Options], module: str, action: Callable[[Options], str]) -> None:
    """Parse the command line, act, print the sentence that comes back; end with one sentence where it fails."""
    try:
        print(action(parse_options(options_type, sys.argv[1:], f"python -m {module}")))
    except HelpRequest as help:
        print(help)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to work in, with one thread each. They end with this one, however it ends, and at Ctrl-C."""
    pool = ProcessPoolExecutor(num_workers, initializer=_begin_worker, initargs=(os.getpid(),))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        pool.shutdown()


def _begin_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    torch.set_num_threads(1)


def progress_bar(unit: str, total: int | None = None) -> "tqdm[object]":
    """For what may take hours: shown after a few seconds, and in a log file once a minute."""
    return tqdm(unit=f" {unit}", total=total, delay=5, mininterval=2 if sys.stderr.isatty() else 60)
