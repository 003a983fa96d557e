"""The sample that each worker is reading, in memory shared with its parent, so that a death can name the sample.

A sample that takes more than SAMPLE_CPU_SECONDS ends its worker, and with it the job. It is not skipped: which samples
are skipped must depend on their content alone, never on the speed of a machine. The limit counts CPU time, so that a
process that was stopped, or that shares its core, does not count as hanging.
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
"""Start of the sample on the clock that all processes of a machine share, and the number of bytes of its name."""
_NAMED = 4
"""Maximum number of samples that a message names."""


def limit_cpu_time() -> None:
    """Have the kernel end this process by SIGPROF after SAMPLE_CPU_SECONDS of CPU time, even inside a decoder."""
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_CPU_SECONDS)


def lift_cpu_limit() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)


class UnderWay:
    """One slot per worker of a pool, with the name of its current sample."""

    def __init__(self, num_workers: int):
        self._slots = mmap.mmap(-1, num_workers * _SLOT_BYTES)
        self._num_taken = multiprocessing.get_context("fork").Value("i", 0)
        self._own: int | None = None

    def take_slot(self) -> None:
        """Take a slot for this worker. Called once, in the worker."""
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
        """Return a sentence that names the sample at which a worker has died, if known. Called in the parent."""
        now, overdue, others = time.monotonic(), list[str](), list[str]()
        for start in range(0, self._num_taken.value * _SLOT_BYTES, _SLOT_BYTES):
            since, length = _HEAD.unpack_from(self._slots, start)
            if length:
                name = self._slots[start + _HEAD.size : start + _HEAD.size + length].decode(errors="replace")
                (overdue if now - since >= SAMPLE_CPU_SECONDS else others).append(name)
        if overdue:
            return (
                f"{', '.join(overdue[:_NAMED])} took more than {SAMPLE_CPU_SECONDS:g} s of CPU time; remove it from "
                "the data and rerun the same command"
            )
        at = f", at {' or '.join(others[:_NAMED])}" if 0 < len(others) <= _NAMED else ""
        return f"a worker process was killed, perhaps for lack of memory{at}; rerun the same command"


_under_way: UnderWay | None = None
"""Slots of the pool that this process works in; None outside of a worker."""


def join(under_way: UnderWay) -> None:
    """Take a slot in the pool of this worker, when it starts."""
    global _under_way
    under_way.take_slot()
    _under_way = under_way


@contextmanager
def at_sample(name: str) -> Iterator[None]:
    """Mark the block as work on a sample: in a worker, its CPU time is limited and a death names it."""
    if _under_way is not None:
        _under_way.begin(name)
    try:
        yield
    finally:
        if _under_way is not None:
            _under_way.end()
