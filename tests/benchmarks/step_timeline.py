"""Time of a step by category, from a trace of torch.profiler: every moment belongs to one category.

On a GPU the events are kernels and copies, on a CPU the operations of torch. A moment belongs to the running event that
began last (on a CPU: the innermost operation), to communication only if nothing else runs, and to `idle` if nothing
runs: the GPU waits for the host, or Python runs between operations of the CPU.
"""

import heapq
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CATEGORIES = ("GEMM", "attention", "memory-bound", "communication", "optimizer", "idle")
"""Categories; `communication` is only the time in which nothing else runs."""

_PATTERNS = (  # the first match counts; attention precedes GEMM, as its kernels name cutlass too
    ("communication", r"nccl|gloo|c10d|allgather|all_gather|reduce_scatter|all_reduce"),
    ("optimizer", r"multi_tensor_apply|adam|optimizer\.step"),
    ("attention", r"flash|fmha|sdpa|scaled_dot_product|efficient_attention|dot_do_o|varlen_attn|convert_dq"),
    ("GEMM", r"nvjet|gemm|gemv|cutlass|splitkreduce|aten::(add|b|badd)?mm\b|_linear_pointwise|dot_kernel"),
)
_KERNEL_CATEGORIES = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Event:
    """A kernel or an operation, in seconds of the trace."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """Events of a trace between two moments."""

    events: tuple[Event, ...]
    optimizer: tuple[Event, ...]
    """Ranges in which all events but communication belong to the optimizer."""
    begin: float
    end: float


def category_of(name: str) -> str:
    """Return the kind of a kernel or operation; `memory-bound` if no pattern matches: elementwise, norms, copies."""
    lower = name.lower()
    return next((category for category, pattern in _PATTERNS if re.search(pattern, lower)), "memory-bound")


def read_trace(path: Path, steps: str, optimizer: str) -> Timeline:
    """Read a trace exported by torch.profiler; steps and optimizer: names of record_function's ranges."""
    records = [record for record in json.loads(path.read_text())["traceEvents"] if record.get("ph") == "X"]
    is_gpu = any(record.get("cat") == "kernel" for record in records)
    kinds = _KERNEL_CATEGORIES if is_gpu else ("cpu_op",)
    ranges = "gpu_user_annotation" if is_gpu else "user_annotation"
    (whole,) = (_event(record) for record in records if _is(record, "user_annotation", steps))
    return Timeline(
        events=tuple(_event(record) for record in records if record.get("cat") in kinds),
        optimizer=tuple(_event(record) for record in records if _is(record, ranges, optimizer)),
        begin=whole.begin,
        end=whole.end,
    )


def _is(record: dict[str, Any], kind: str, name: str) -> bool:
    return record.get("cat") == kind and record["name"] == name


def _event(record: dict[str, Any]) -> Event:
    """Return an event, with microseconds converted to seconds."""
    return Event(record["name"], record["ts"] * 1e-6, (record["ts"] + record["dur"]) * 1e-6)


def seconds_of(timeline: Timeline) -> dict[str, dict[str, float]]:
    """Return seconds by category and name, which add up to the whole."""
    names: dict[str, dict[str, float]] = {category: defaultdict(float) for category in CATEGORIES}
    events = [event for event in timeline.events if event.end > timeline.begin and event.begin < timeline.end]
    categories = _categories(events, timeline.optimizer)
    waiting = sorted(range(len(events)), key=lambda i: events[i].begin)
    # running events; the first one has the moment. Those that ended are removed when they come first
    active: list[tuple[bool, float, int]] = []
    now, position = timeline.begin, 0
    while now < timeline.end:
        while position < len(waiting) and events[waiting[position]].begin <= now:
            i = waiting[position]
            heapq.heappush(active, (categories[i] == "communication", -events[i].begin, i))
            position += 1
        while active and events[active[0][2]].end <= now:
            heapq.heappop(active)
        until = timeline.end if position == len(waiting) else min(timeline.end, events[waiting[position]].begin)
        if not active:
            names["idle"]["nothing"] += until - now
        else:
            i = active[0][2]
            until = min(until, events[i].end)
            names[categories[i]][events[i].name] += until - now
        now = until
    return names


def _categories(events: Sequence[Event], optimizer: Iterable[Event]) -> list[str]:
    found = [category_of(event.name) for event in events]
    for span in optimizer:
        for i, event in enumerate(events):
            if found[i] != "communication" and span.begin <= (event.begin + event.end) / 2 <= span.end:
                found[i] = "optimizer"
    return found
