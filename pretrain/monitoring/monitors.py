"""Monitors of a run: each takes the figures of a step in a thread of its own, so that none can stop or slow the run.

A monitor that raises is reported once and opened again a minute later, since a full disk may be emptied and a server
come back; one that hangs fills its queue, and further figures are left out. Whatever happens, `write` returns at once.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pretrain.survival.console import warn

MAX_WAITING = 1000
"""Steps that a monitor may be behind."""
RETRY_SECONDS = 60.0
"""Time after which a monitor that failed is opened again."""
CLOSE_SECONDS = 10.0
"""Longest wait at the end of a run for what the monitors have not written yet."""


class Monitor(Protocol):
    """A place that figures are written to. Used by one thread; may raise anything."""

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Write figures; step: number of steps done; seconds: Unix time."""

    def close(self) -> None:
        """Write what is left."""


@dataclass(frozen=True)
class Opener:
    """A monitor that is opened once there is something to write."""

    name: str
    open: Callable[[int], Monitor]
    """Return the monitor. Takes the first step that will be written: a run that resumes takes it, and those after it,
    again, so that figures of these steps that are there already are void."""


class Monitors:
    """The monitors of a run, on the main rank; without openers, as on the other ranks, nothing happens."""

    def __init__(self, openers: Sequence[Opener] = (), first_step: int = 0):
        """first_step: steps done before this start."""
        self._threads = [MonitorThread(opener, first_step) for opener in openers]
        for thread in self._threads:
            thread.start()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Hand figures to the monitors, but for those that are not finite. Never raises and never waits.

        step: number of steps done; figures: by name, with slashes between a group and its members.
        """
        finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
        for thread in self._threads:
            thread.hand_over(step, time.time(), finite)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Let the monitors write what is left, for at most `seconds`, and close them."""
        for thread in self._threads:
            thread.hand_over_end()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                thread.warn_once(f"has not written all figures {seconds:g} s after the end")


class MonitorThread(threading.Thread):
    """Writes to one monitor."""

    def __init__(self, opener: Opener, first_step: int):
        super().__init__(name=f"monitor {opener.name}", daemon=True)
        self._opener = opener
        self._queue = queue.Queue[tuple[int, float, dict[str, float]] | None](MAX_WAITING)
        self._monitor: Monitor | None = None
        # a start may first write the evaluation of the step that it resumes at, whose other figures are there and stay
        self._next_step = first_step + 1
        self._opens_at = -math.inf
        self._has_warned = False

    def hand_over(self, step: int, seconds: float, figures: dict[str, float]) -> None:
        """Queue figures, or leave them out if too many wait already."""
        try:
            self._queue.put_nowait((step, seconds, figures))
        except queue.Full:
            self.warn_once(f"is {MAX_WAITING} steps behind")

    def hand_over_end(self) -> None:
        """Ask the thread to end once it has written what waits."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self.warn_once(f"is {MAX_WAITING} steps behind")

    def run(self) -> None:
        while (item := self._queue.get()) is not None:
            if time.monotonic() >= self._opens_at:
                self._attempt(item)
        if self._monitor is not None:
            try:
                self._monitor.close()
            except Exception as error:
                self._report(error)

    def _attempt(self, item: tuple[int, float, dict[str, float]]) -> None:
        step, seconds, figures = item
        try:
            if self._monitor is None:
                self._monitor = self._opener.open(self._next_step)
            self._monitor.write(step, seconds, figures)
            self._next_step = max(self._next_step, step + 1)
        except Exception as error:  # of any library
            self._monitor, self._opens_at = None, time.monotonic() + RETRY_SECONDS
            self._report(error)

    def _report(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        self.warn_once(f"failed ({reason})")

    def warn_once(self, clause: str) -> None:
        """Warn of a monitor's first trouble; the log has all figures in any case."""
        if not self._has_warned:
            self._has_warned = True
            warn(f"warning: monitor {self._opener.name} {clause}; the run goes on, and log.jsonl has every figure")
