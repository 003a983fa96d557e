"""How fast a run is: tokens a second, and what share of the GPU's peak the model's own operations are (MFU)."""

import time

import torch

from pretrain.jobs.job import StepWork

PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "GH200": 989, "B200": 2250}
"""Of dense bfloat16 products, by datasheets; SXM versions."""


class SpeedMeter:
    """Speed from step to step: reading, agreement and log lines included, the rank's start left out."""

    def __init__(self, num_ranks: int, device: torch.device, dtype: torch.dtype = torch.bfloat16):
        """dtype: of matrix products; of others than bfloat16 there is no MFU."""
        self.num_ranks = num_ranks
        self.peak_flops = peak_flops(device) if dtype == torch.bfloat16 else None
        self._last_step_ended: float | None = None

    def step_ended(self, work: StepWork, step_seconds: float) -> dict[str, float]:
        """Figures of the step that has just been launched; work: of all ranks; step_seconds: it took, for the first
        one."""
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
    """Of a GPU, operations a second; None where the table does not have it, and for a CPU."""
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    if "PCIe" in words or "PCIE" in words:
        return None  # slower by a third, and by how much depends on the board
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if name in words), None)
