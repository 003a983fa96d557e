"""Memory that torch allocates on the CPU, measured by its profiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

MEASURED = "measured"
"""Name of the `torch.profiler.record_function` whose peak counts."""


@contextmanager
def allocations() -> Iterator[list[Any]]:
    """A list that holds all events of the block after it."""
    events: list[Any] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield events
    results = profiler.profiler.kineto_results
    waiting = list(results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        events.append(event)
        waiting += event.children


def measured_events(events: list[Any]) -> list[Any]:
    """Those within the part that is named MEASURED; without such a part, all."""
    spans = [(event.start_time_ns, event.end_time_ns) for event in events if event.name == MEASURED]
    first, last = spans[0] if spans else (0, float("inf"))
    return [event for event in events if first <= event.start_time_ns <= last]


def peak_bytes(events: list[Any]) -> int:
    """Most bytes alive at a time in that part, of those allocated in the block."""
    measured = measured_events(events)
    first = min(event.start_time_ns for event in measured)
    last = max(event.start_time_ns for event in measured)
    changes = [event for event in events if event.tag == _EventType.Allocation]
    sizes: dict[int, int] = {}
    live = peak = 0
    for change in sorted(changes, key=lambda event: event.start_time_ns):
        # what stood at an address before is gone, though nothing told of it: gloo frees in threads of its own
        live -= sizes.pop(change.extra_fields.ptr, 0)
        if change.extra_fields.alloc_size > 0:
            sizes[change.extra_fields.ptr] = change.extra_fields.alloc_size
            live += change.extra_fields.alloc_size
        if first <= change.start_time_ns <= last:
            peak = max(peak, live)
    return peak
