"""Which sample each worker process is at, in memory that it shares with its parent, so that its death names the sample.

A sample that takes more than SAMPLE_CPU_SECONDS ends its worker, and with it the job. Samples are skipped by what they
contain alone: which ones are must not depend on how fast a machine is. The time is the CPU's, so that a process that
was stopped, or shares its core, is not taken for one that hangs.
"""

import mmap
import multiprocessing
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from data_pipeline.samples.sample import printable

SAMPLE_CPU_SECONDS = 60.0
_SLOT_BYTES = 1024
_HEAD = struct.Struct("dH")
"""When the sample was begun, on the clock that all processes of a machine share; bytes of its name."""
_NAMED = 4
"""Samples that a message names."""


def limit_cpu_time() -> None:
    """End this process by SIGPROF when it has used that much CPU time from now on, also inside a decoder."""
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_CPU_SECONDS)


def lift_cpu_limit() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)


class UnderWay:
    """A slot for each worker of a pool, which holds what it is at."""

    def __init__(self, num_workers: int):
        self._slots = mmap.mmap(-1, num_workers * _SLOT_BYTES)
        self._num_taken = multiprocessing.get_context("fork").Value("i", 0)
        self._own: int | None = None

    def take_slot(self) -> None:
        """In a worker, once."""
        with self._num_taken.get_lock():
            self._own = self._num_taken.value * _SLOT_BYTES
            self._num_taken.value += 1

    def begin(self, name: str) -> None:
        if self._own is not None:
            encoded = printable(name).encode()[: _SLOT_BYTES - _HEAD.size]
            self._slots[self._own + _HEAD.size : self._own + _HEAD.size + len(encoded)] = encoded
            _HEAD.pack_into(self._slots, self._own, time.monotonic(), len(encoded))
            limit_cpu_time()

    def end(self) -> None:
        if self._own is not None:
            lift_cpu_limit()
            _HEAD.pack_into(self._slots, self._own, 0, 0)

    def explain_death(self) -> str:
        """In the parent, when a worker has died: at which sample, as far as that is known."""
        now, overdue, others = time.monotonic(), list[str](), list[str]()
        for start in range(0, self._num_taken.value * _SLOT_BYTES, _SLOT_BYTES):
            since, length = _HEAD.unpack_from(self._slots, start)
            if length:
                name = self._slots[start + _HEAD.size : start + _HEAD.size + length].decode(errors="replace")
                (overdue if now - since >= SAMPLE_CPU_SECONDS else others).append(name)
        if overdue:
            return (
                f"{', '.join(overdue[:_NAMED])} took more than {SAMPLE_CPU_SECONDS:g} s of CPU time; leave it out of "
                "the data, and the same command goes on"
            )
        at = f", at {' or '.join(others[:_NAMED])}" if 0 < len(others) <= _NAMED else ""
        return f"a worker process was killed, perhaps for memory{at}; the same command goes on"


_under_way: UnderWay | None = None
"""Of the pool that this process works in."""


def join(under_way: UnderWay) -> None:
    """In a new worker of a pool."""
    global _under_way
    under_way.take_slot()
    _under_way = under_way


@contextmanager
def at_sample(name: str) -> Iterator[None]:
    """Work on a sample: in a worker it is named if the worker dies, and limited in time."""
    if _under_way is not None:
        _under_way.begin(name)
    try:
        yield
    finally:
        if _under_way is not None:
            _under_way.end()
