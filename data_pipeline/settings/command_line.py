"""What every command that takes options has in common."""

import ctypes
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from data_pipeline.samples.sample import printable_lines
from data_pipeline.samples.under_way import UnderWay, join
from data_pipeline.settings.parsing import HelpRequest, parse_options

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent dies."""

Options = TypeVar("Options")


def run_command(options_type: type[Options], module: str, action: Callable[[Options], str]) -> None:
    """Parse the command line and print what the action returns; if it fails, end the process with one sentence."""
    print_result(lambda: action(parse_options(options_type, sys.argv[1:], f"python -m {module}")))


def print_result(command: Callable[[], str]) -> None:
    """Print what a command returns, or its help; if it fails, end the process with one sentence."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    try:
        print(printable_lines(command()))
    except HelpRequest as help:
        print(help)
    except (ValueError, OSError) as error:
        print(f"error: {printable_lines(str(error))}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes to work in, with one thread each. They end with this one, however it ends, and at Ctrl-C.

    Raises ValueError where one of them dies, with the sample that it was at.
    """
    under_way = UnderWay(num_workers)
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_workers, fork, initializer=_begin_worker, initargs=(os.getpid(), under_way))
    try:
        yield pool
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise ValueError(under_way.explain_death()) from error
        raise
    finally:
        pool.shutdown()


def _begin_worker(parent: int, under_way: UnderWay) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
    join(under_way)
    import torch  # here: a command line is parsed without it

    torch.set_num_threads(1)


def progress_bar(unit: str, total: int | None = None) -> "tqdm[object]":
    """For what may take hours: shown after a few seconds, and in a log file once a minute."""
    return tqdm(unit=f" {unit}", total=total, delay=5, mininterval=2 if sys.stderr.isatty() else 60)
