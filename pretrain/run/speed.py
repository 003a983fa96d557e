"""Speed of a run: tokens per second, model FLOPs utilization (MFU), and the share of time spent waiting for data."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import psutil
import torch

from pretrain.jobs.job import StepWork

PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250}
"""Peak of dense bfloat16 matrix products in TFLOPS, from the datasheets of the SXM versions."""

BatchT = TypeVar("BatchT")


class SpeedMeter:
    """Speed from step to step, including reading, agreement and logging, without the start of the run."""

    def __init__(self, num_ranks: int, device: torch.device, dtype: torch.dtype = torch.bfloat16):
        """dtype: of matrix products; MFU is reported for bfloat16 only."""
        self.num_ranks = num_ranks
        self.peak_flops = peak_flops(device) if dtype == torch.bfloat16 else None
        self._last_step_ended: float | None = None

    def leave_out_time(self) -> None:
        """Count the time since the last step as no part of the next one."""
        self._last_step_ended = None

    def step_ended(self, work: StepWork | None, step_seconds: float, wait_seconds: float = 0.0) -> dict[str, float]:
        """Return figures of the step just launched, for the log.

        work: of all ranks, None if unknown; step_seconds: duration of the step, used if no other step went directly
        before it; wait_seconds: time that the slowest rank waited for the step's data.
        """
        now = time.monotonic()
        is_first = self._last_step_ended is None
        seconds = step_seconds + wait_seconds if self._last_step_ended is None else now - self._last_step_ended
        self._last_step_ended = now
        wait = {"data_wait": min(1.0, wait_seconds / seconds)}
        if work is None:
            return wait
        if is_first:
            seconds = step_seconds
        flops_per_second = work.flops / seconds / self.num_ranks
        figures = wait | {
            "num_tokens": work.num_tokens,
            "tokens_per_second": work.num_tokens / seconds,
            "tflops_per_rank": flops_per_second / 1e12,
        }
        return figures if self.peak_flops is None else figures | {"mfu": flops_per_second / self.peak_flops}


class TimedBatches:
    """The batches of a run, with the time that each was waited for."""

    def __init__(self) -> None:
        self.wait_seconds = 0.0
        """Time that this rank's host waited for the batch it yielded last."""

    def timed(self, batches: Iterable[BatchT]) -> Iterator[BatchT]:
        """Yield the batches."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            self.wait_seconds = time.perf_counter() - started
            if batch is None:
                return
            yield batch


def memory_gib(device: torch.device) -> float:
    """Return the peak memory of a GPU, which the host knows without asking it, or the memory of a process on a CPU."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    return used / 2**30


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of a GPU in operations per second; None for a CPU and for a GPU that the table lacks."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    if "PCIe" in words or "PCIE" in words:
        return None  # slower than SXM by a third or more, depending on the board
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in words), None)
