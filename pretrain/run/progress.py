"""The progress of a run in words: one live line on a terminal, plain lines in a file or a pipe.

Plain lines become ever rarer: after 1, 2, 5, 10, 20, 50 ... steps of this start, else every half a minute, and after
the last step. The live line leaves out what matters least if the terminal is narrow.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pretrain.survival.console import end_live, is_terminal, num_columns, say, show_live

PLAIN_SECONDS = 30.0
"""Time between two plain lines."""
LIVE_SECONDS = 0.25
"""Shortest time between two paintings of the live line."""
PACE_STEPS = 100
"""Number of last steps whose mean duration predicts the end."""
SEPARATOR = "  "


class Part(NamedTuple):
    """A piece of the progress line."""

    text: str
    rank: int
    """Importance; 0 for what is left out last."""


class Progress:
    """Shows the records of steps on the main rank."""

    def __init__(self, num_steps: int, first_step: int, fields: tuple[str, ...] = ("losses",)):
        """first_step: steps done before this start; fields: of a record, dicts of figures, that the line has."""
        self.num_steps, self.first_step, self.fields = num_steps, first_step, fields
        self._is_live = is_terminal()
        self._ended = deque[tuple[int, float]](maxlen=PACE_STEPS + 1)
        self._last_shown = -math.inf
        self._num_bad_samples = 0

    def show(self, record: dict[str, Any]) -> None:
        """Show the record of a step if it is time to."""
        now, done = time.monotonic(), record["step"] + 1
        self._ended.append((done, record["time"]))  # records may come late, two at once
        self._num_bad_samples += record.get("bad_samples", 0)
        is_last = done == self.num_steps
        seconds = LIVE_SECONDS if self._is_live else PLAIN_SECONDS
        is_early = not self._is_live and is_round(done - self.first_step)
        if not (is_last or is_early or now - self._last_shown >= seconds):
            return
        self._last_shown = now
        found = list(self.parts(record, datetime.now()))
        if not self._is_live:
            say(SEPARATOR.join(part.text for part in found))
            return
        show_live(fitted(found, num_columns() - 1))  # a full line would wrap on some terminals
        if is_last:
            end_live()

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of the last steps, with reading, logging and saving; None after the first step of a start."""
        if len(self._ended) < 2:
            return None
        (first, began), (last, ended) = self._ended[0], self._ended[-1]
        return (ended - began) / (last - first)

    def parts(self, record: dict[str, Any], now: datetime) -> Iterator[Part]:
        """Yield the pieces of the line in their order."""
        done = record["step"] + 1
        yield Part(f"step {done}/{self.num_steps}", 0)
        yield Part(f"loss {record['loss']:.3f}", 1)
        figures = [item for field in self.fields for item in record.get(field, {}).items()]
        for number, (name, value) in enumerate(figures):
            yield Part(f"{name} {value:.3f}" if math.isfinite(value) else f"{name} -", 8 + number)
        yield Part(f"grad norm {record['grad_norm']:.2f}", 33)
        yield Part(f"lr {record['lr']:.1e}", 34)
        if (pace := self.seconds_per_step) is not None:
            yield Part(f"{pace:.2f} s/step", 35)
        if "tokens_per_second" in record:
            yield Part(f"{record['tokens_per_second']:,.0f} tokens/s", 4)
        if "mfu" in record:
            yield Part(f"MFU {record['mfu']:.1%}", 5)
        if "data_wait" in record:
            yield Part(f"data wait {record['data_wait']:.0%}", 6)
        if "memory_gib" in record:
            yield Part(f"{record['memory_gib']:.1f} GiB", 7)
        if record.get("num_skipped_steps"):
            yield Part(f"{record['num_skipped_steps']} skipped", 3)
        if self._num_bad_samples:
            yield Part(f"{self._num_bad_samples} bad samples", 3)
        if pace is not None and done < self.num_steps:
            left = timedelta(seconds=pace * (self.num_steps - done))
            yield Part(f"{duration_in_words(left)} left", 20)
            yield Part(end_in_words(now + left, now), 2)


def is_round(number: int) -> bool:
    """Return whether a number is 1, 2 or 5 times a power of ten."""
    while number and number % 10 == 0:
        number //= 10
    return number in (1, 2, 5)


def fitted(parts: list[Part], columns: int) -> str:
    """Return a line of at most `columns`: of the parts, the most important that fit, in their order."""
    kept, left = {0}, columns - len(parts[0].text)
    for number in sorted(range(1, len(parts)), key=lambda number: parts[number].rank):
        width = len(SEPARATOR) + len(parts[number].text)
        if width <= left:
            kept.add(number)
            left -= width
    return SEPARATOR.join(parts[number].text for number in sorted(kept))[:columns]


def end_in_words(end: datetime, now: datetime) -> str:
    """Return when a run ends: 'ends 14:32', within a week 'ends Tue 14:32', else 'ends 3 Mar 14:32'."""
    days = (end.date() - now.date()).days
    day = "" if days == 0 else f"{end:%a} " if days < 7 else f"{end.day} {end:%b} "
    return f"ends {day}{end:%H:%M}"


def duration_in_words(duration: timedelta) -> str:
    """Return a duration by its two largest units: '2 d 4 h', '3 h 20 min', '25 min', '9 s'."""
    seconds = int(duration.total_seconds())
    minutes, hours = seconds // 60, seconds // 3600
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
