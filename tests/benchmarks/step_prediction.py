"""Predicted time of a benchmark's step, by the categories of step_timeline.py, to stand beside the measured one.

Each category has the assumptions of pretrain/planning/assumptions.py that it tests: if a measured category is twice the
predicted one, one of these is wrong. Copies in the optimizer's range count as optimizer, and gradients on their way to
DeepSpeed's buckets as memory-bound.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.assumptions import GPUS, Assumptions, Gpu
from pretrain.planning.roofline import ASSUMED, COMMUNICATION, GRADIENTS, OPTIMIZER, WAITING
from pretrain.planning.step_times import AssumedMachine, step_time
from tests.benchmarks.step_cases import Case, caption_lengths
from tests.benchmarks.step_engines import Variant
from tests.benchmarks.step_timeline import CATEGORIES

PARTS = {
    "GEMM": ("products",),
    "attention": ("attention forward", "attention backward"),
    "memory-bound": (
        "activation forward", "activation backward", "norms and sums", "copies", "other operations", GRADIENTS,
    ),
    "communication": (COMMUNICATION,),
    "optimizer": (OPTIMIZER,),
    "idle": (WAITING,),
}  # fmt: skip
"""The predicted parts of each category."""
ON_A_CPU = ("GEMM", "memory-bound", "optimizer")
"""Categories that are predicted on a CPU. Attention has no speed of its own there, and host and device are one."""
AS_MEASURED = Assumptions(
    product_share=1.0, copy_share=1.0, norms_share=1.0, copies_share=1.0, other_share=1.0,
    activation_forward_tb=1e6, activation_backward_tb=1e6,
)  # fmt: skip
"""Assumptions on a device whose speeds of products and copies were measured."""
CPU_SECONDS = 0.5
"""Seconds for which each speed of a CPU is measured."""


@dataclass(frozen=True)
class Prediction:
    """Predicted time of a category."""

    seconds: float
    """Seconds per step."""
    assumptions: tuple[str, ...]
    """Names of the assumptions that it depends on."""


def machine_of(device: torch.device) -> AssumedMachine | None:
    """Return the assumptions on a device; None for a GPU without any. Those of a CPU are measured."""
    if device.type == "cpu":
        return AssumedMachine(measured_cpu(), AS_MEASURED)
    gpu = gpu_of(torch.cuda.get_device_name(device))
    return None if gpu is None else AssumedMachine(gpu, Assumptions())


def gpu_of(device_name: str) -> Gpu | None:
    """Return the figures of a GPU by the name that CUDA reports; None if there are none for it."""
    words = set(device_name.lower().replace("-", " ").split())
    if words & {"pcie", "nvl", "40gb"}:  # slower than the SXM versions in GPUS
        return None
    return next((gpu for known, gpu in GPUS.items() if known in words), None)


def predicted(
    case: Case, variant: Variant, num_parts: int, machine: AssumedMachine, device: torch.device
) -> dict[str, Prediction]:
    """Return the predicted time of each category of a step of one rank in num_parts micro-steps.

    variant: ours by its kernels; all but Triton's are counted as the reference.
    """
    lengths = caption_lengths(case.config.pairs_per_step)
    config = replace(
        case.config,
        data=replace(case.config.data, caption_length=round(sum(lengths) / len(lengths))),
        gradient_accumulation_steps=num_parts,
        kernels="triton" if variant in ("auto", "triton") else "reference",
    )
    found = step_time(config, read_memory_config(config.deepspeed_config), 1, machine)
    known = CATEGORIES if device.type == "cuda" else ON_A_CPU
    return {
        category: Prediction(
            sum(found.parts[part] for part in PARTS[category]),
            tuple(dict.fromkeys(name for part in PARTS[category] for name in ASSUMED[part])),
        )
        for category in known
    }


def measured_cpu() -> Gpu:
    """Return the speeds of products and copies in float32 of this CPU, with the number of threads that is set."""
    left, right = torch.randn(1024, 768), torch.randn(768, 3072)
    product = torch.empty(1024, 3072)
    source = torch.zeros(2**24)
    target = torch.empty_like(source)
    flops_per_second = 2 * left.numel() * right.shape[1] / _least_seconds(lambda: torch.mm(left, right, out=product))
    bytes_per_second = 2 * source.nbytes / _least_seconds(lambda: target.copy_(source))
    tflops = flops_per_second / 1e12
    return Gpu(peak_tflops=tflops, float32_tflops=tflops, memory_tb=bytes_per_second / 1e12, memory_gb=80.0)


def _least_seconds(run: Callable[[], object]) -> float:
    """Return the least seconds of the runs in CPU_SECONDS, after one that warms up."""
    run()
    least, end = float("inf"), time.monotonic() + CPU_SECONDS
    while time.monotonic() < end:
        begin = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - begin)
    return least
