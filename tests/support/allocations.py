"""Memory that torch allocates on the CPU, measured with its profiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

MEASURED = "measured"
"""Name of the `torch.profiler.record_function` whose peak is measured."""


@contextmanager
def allocations() -> Iterator[list[Any]]:
    """Yield a list that holds all events of the block once it has ended."""
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
    """Return the events within the part named MEASURED; all events if there is no such part."""
    spans = [(event.start_time_ns, event.end_time_ns) for event in events if event.name == MEASURED]
    first, last = spans[0] if spans else (0, float("inf"))
    return [event for event in events if first <= event.start_time_ns <= last]


def peak_bytes(events: list[Any]) -> int:
    """Return the peak of bytes alive during that part, of those allocated in the block."""
    measured = measured_events(events)
    first = min(event.start_time_ns for event in measured)
    last = max(event.start_time_ns for event in measured)
    changes = [event for event in events if event.tag == _EventType.Allocation]
    sizes: dict[int, int] = {}
    live = peak = 0
    for change in sorted(changes, key=lambda event: event.start_time_ns):
        # an earlier allocation at the address has been freed, even if no event reported it: gloo frees in its own
        # threads
        live -= sizes.pop(change.extra_fields.ptr, 0)
        if change.extra_fields.alloc_size > 0:
            sizes[change.extra_fields.ptr] = change.extra_fields.alloc_size
            live += change.extra_fields.alloc_size
        if first <= change.start_time_ns <= last:
            peak = max(peak, live)
    return peak
