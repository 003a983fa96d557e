"""Speed of a run: tokens per second, and model FLOPs utilization (MFU)."""

import time

import torch

from pretrain.jobs.job import StepWork

PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250}
"""Peak of dense bfloat16 matrix products in TFLOPS, from the datasheets of the SXM versions."""


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

    def step_ended(self, work: StepWork, step_seconds: float) -> dict[str, float]:
        """Return figures of the step just launched, for the log.

        work: of all ranks; step_seconds: duration of the step, used if no other step went directly before it.
        """
        now = time.monotonic()
        seconds = step_seconds if self._last_step_ended is None else now - self._last_step_ended
        self._last_step_ended = now
        flops_per_second = work.flops / seconds / self.num_ranks
        figures = {
            "num_tokens": work.num_tokens,
            "tokens_per_second": work.num_tokens / seconds,
            "tflops_per_rank": flops_per_second / 1e12,
        }
        return figures if self.peak_flops is None else figures | {"mfu": flops_per_second / self.peak_flops}


def peak_flops(device: torch.device) -> float | None:
    """Return the peak of a GPU in operations per second; None for a CPU and for a GPU that the table lacks."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    if "PCIe" in words or "PCIE" in words:
        return None  # slower than SXM by a third or more, depending on the board
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in words), None)
