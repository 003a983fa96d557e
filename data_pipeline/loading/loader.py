"""Batches of consecutive steps, read ahead by worker processes; a worker that dies is reported, not waited for."""

import mmap
import multiprocessing.connection
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader, get_worker_info

from data_pipeline.loading.shard_dataset import BatchT, ShardDataset
from data_pipeline.samples.sample import KINDS, Kind
from data_pipeline.workers.under_way import SAMPLE_CPU_SECONDS, lift_cpu_limit, limit_cpu_time

DEATH_SECONDS = 5.0
"""How long a worker that has failed may take to end."""


def step_batches(
    dataset: ShardDataset[BatchT, Any],
    first_step: int,
    last_step: int,
    num_workers: int,
    in_worker: Callable[[], None] = lambda: None,
    pin_memory: bool = False,
) -> Iterator[BatchT]:
    """Yield dataset[first_step] .. dataset[last_step - 1].

    in_worker: called once in each worker process. pin_memory: page-locked batches, for copies to a GPU that run while
    the GPU computes.

    If a worker dies, or a sample takes more CPU time than under_way allows, the batch is empty and its `failure` names
    the worker and the sample that it was reading.
    """
    if num_workers == 0:
        for step in range(first_step, last_step):
            yield dataset[step].pin_memory() if pin_memory else dataset[step]
        return
    last_read = LastRead(num_workers)

    def begin(worker: int) -> None:
        in_worker()
        info = get_worker_info()
        assert info is not None
        reading = cast(ShardDataset[BatchT, Any], info.dataset)

        def now_reading(*read: Any) -> None:
            last_read.write(worker, *read)
            limit_cpu_time()

        reading.now_reading, reading.done_reading = now_reading, lift_cpu_limit

    on_child_death = signal.getsignal(signal.SIGCHLD)
    batches = iter(
        DataLoader(
            dataset,
            sampler=range(first_step, last_step),
            batch_size=None,  # dataset[step] is a whole batch
            num_workers=num_workers,
            worker_init_fn=begin,
            # fork: workers share the memory-mapped index and `last_read`, and start at once; they never touch the GPU,
            # whose state does not survive a fork
            multiprocessing_context="fork",
            pin_memory=pin_memory,
        )
    )
    # PyTorch's handler raises wherever the rank happens to be, perhaps between two collectives, which the other ranks
    # would wait for. A dead worker shows below all the same: PyTorch looks after its workers whenever it waits.
    signal.signal(signal.SIGCHLD, on_child_death or signal.SIG_DFL)
    for step in range(first_step, last_step):
        try:
            batch = next(batches)
        except Exception as error:  # of any type: the other ranks wait for this one
            yield dataset.failed(step, _death(dataset, batches._workers, last_read) or str(error), [])  # type: ignore[attr-defined]
            return
        yield batch


class LastRead:
    """The sample that each worker read last, in memory that the workers share with the rank.

    A worker that is killed can send no message: what it wrote here before it began the sample remains.
    """

    def __init__(self, num_workers: int):
        shared = mmap.mmap(-1, num_workers * 4 * 8)
        self._entries = np.frombuffer(shared, dtype=np.int64).reshape(num_workers, 4)
        self._entries[:, 0] = -1

    def write(self, worker: int, step: int, kind: Kind, source: int, sample: int) -> None:
        self._entries[worker] = (step, KINDS.index(kind), source, sample)

    def read(self, worker: int, dataset: ShardDataset[Any, Any]) -> str:
        """Return a clause that names the sample."""
        step, kind, source, sample = (int(value) for value in self._entries[worker])
        if step < 0:
            return "it had read nothing"
        return f"it had last begun to read {dataset.name(KINDS[kind], source, sample)} of step {step}"


def _death(dataset: ShardDataset[Any, Any], workers: list[object], last_read: LastRead) -> str:
    """Return which workers have died, how, and what they were reading; nothing if none has."""
    # a worker's pipe may break before its exit code is there
    multiprocessing.connection.wait([worker.sentinel for worker in workers], DEATH_SECONDS)  # type: ignore[attr-defined]
    deaths = []
    for number, worker in enumerate(workers):
        code = worker.exitcode  # type: ignore[attr-defined]
        if code == -signal.SIGPROF:
            deaths.append(
                f"loader worker {number} took more than {SAMPLE_CPU_SECONDS:g} s of CPU time for a sample; "
                f"{last_read.read(number, dataset)}; write the shards without it, or lower data.max_image_pixels"
            )
        elif code:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            deaths.append(f"loader worker {number} died ({how}); {last_read.read(number, dataset)}")
    return "; ".join(deaths)
