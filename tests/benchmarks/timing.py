"""Time of a call on a device, and figures that are printed as soon as they are measured.

A GPU is timed by its own events, which costs no synchronization within a measurement; a CPU, on which benchmarks of
kernels only try whether everything runs, by the host's clock.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

Figure = tuple[str, float]
"""Name and value of what a benchmark has measured."""
NUM_TIMES, NUM_WARMUP = 20, 5


def show(figures: Iterator[Figure]) -> dict[str, float]:
    """Print each figure as it comes, so that a benchmark that is cut short has shown the earlier ones; return all."""
    found: dict[str, float] = {}
    for name, value in figures:
        found[name] = value
        print(f"{name:<56}{value:>12.4g}", flush=True)
    return found


def attempt(name: str, measure: Callable[[], Iterator[Figure]]) -> Iterator[Figure]:
    """Yield the figures of one measurement; print its error, if it raises one, so that the others go on."""
    try:
        yield from measure()
    except Exception as error:
        print(f"{name} is left out: {reason(error)}", flush=True)


def reason(error: BaseException) -> str:
    """Return the first line of an exception, with its type."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def milliseconds(
    call: Callable[[Any], Any], device: torch.device, prepare: Callable[[], Any] = lambda: None, times: int = NUM_TIMES
) -> float:
    """Return the median time of `call(prepare())`, where prepare is not timed; on a CPU one call is timed.

    The GPU's L2 cache is emptied before each call.
    """
    if device.type == "cpu":
        prepared = prepare()
        start = time.perf_counter()
        call(prepared)
        return (time.perf_counter() - start) * 1e3
    flush = torch.empty(2**28, dtype=torch.uint8, device=device)
    found = []
    for turn in range(NUM_WARMUP + times):
        prepared = prepare()
        flush.zero_()
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(1_000_000)  # launches queue up, so host time is not measured
        start_event.record()
        call(prepared)
        end_event.record()
        end_event.synchronize()
        if turn >= NUM_WARMUP:
            found.append(start_event.elapsed_time(end_event))
    return statistics.median(found)


def forward_backward_ms(way: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[float, float]:
    """Return the median times of a function's forward and of its backward.

    Each backward gets a forward of its own, as in training: torch.compile's backward writes into what its forward
    saved ("donated buffers") and cannot run twice.
    """
    device = inputs[0].device
    grads = [torch.ones_like(output) for output in tensors(way(*inputs))]
    forward = milliseconds(lambda _: way(*inputs), device)
    backward = milliseconds(
        lambda outputs: torch.autograd.grad(outputs, inputs, grads), device, lambda: tensors(way(*inputs))
    )
    return forward, backward


def copy_bandwidth(device: torch.device, num_bytes: int = 2**30) -> float:
    """Return the bytes per second that a copy within the device reads and writes."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda _: target.copy_(source), device) * 1e-3)


def tensors(outputs: Any) -> list[torch.Tensor]:
    """Return one or several outputs as a list."""
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
