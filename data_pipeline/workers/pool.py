"""A pool of worker processes that end with the command that started them, and whose death is explained."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from data_pipeline.workers.under_way import UnderWay, join

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl: the signal that a process gets when its parent dies."""


@contextmanager
def worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of single-threaded processes, which end with this process, however it ends, and at Ctrl-C.

    Raises ValueError if a worker dies, with the sample that it was reading.
    """
    under_way = UnderWay(num_workers)
    # fork: the workers share the modules and the options that this process has read, and the slots of `under_way`
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
    # Ctrl-C reaches the whole process group: a worker that only raised KeyboardInterrupt would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # without this, workers outlive a parent that is killed and go on writing shards
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        os._exit(1)
    join(under_way)
    if (torch := sys.modules.get("torch")) is not None:  # only check_shards needs it, and imports it before the fork
        torch.set_num_threads(1)  # there is a worker per core
