"""Options of the planning commands."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from data_pipeline.settings.ranges import Count, check_ranges
from pretrain.planning.assumptions import GPUS, Assumptions, Gigabytes, Gpu, GpuName, Microseconds, Share, Terabytes

Tflops = Annotated[float, Interval(ge=0.1, le=1e5)]
"""1e12 operations per second."""
MemorySize = Annotated[float, Interval(ge=0.1, le=1e4)]
"""1e9 bytes."""
Price = Annotated[float, Interval(ge=0, le=1e6)]

PUBLISHED_MFU = 0.46
"""MFU of a 2.7B model on 8 H100 with full sharding and sequences of 512 (llm-foundry's table of 2023), the published
figure closest to the giant."""
H100_TFLOPS = 989.0
"""Dense bfloat16 products of an H100 SXM, by its datasheet."""


@dataclass(frozen=True)
class PlanOptions:
    """The machine that the recipe is planned for."""

    ranks: Count | None = None
    """Ranks. None: a node of 8, or as many of its GPUs as divide the batch."""
    gpu: GpuName | None = None
    """GPU whose peaks, by its datasheet, are assumed; the three options below change them. None: h100, or no GPU for a
    recipe with ds_configs/zero3_cpu.json."""
    gpu_gb: MemorySize | None = None
    """Memory of a GPU, in 1e9 bytes. None: the GPU's own."""
    peak_tflops: Tflops | None = None
    """Peak of matrix products in the recipe's precision, in 1e12 operations per second. None: the GPU's own."""
    memory_tb: Terabytes | None = None
    """Bandwidth of a GPU's memory, in 1e12 bytes per second. None: the GPU's own."""
    mfu: Share | None = None
    """Part of the peak that the whole run reaches, from which its days follow. None: as predicted."""
    run: Path | None = None
    """Folder of a run whose measured speed, in operations per second and rank, replaces the predicted one."""
    price: Price | None = None
    """Price of a GPU-hour, in any currency."""
    assume: Assumptions = field(default_factory=Assumptions)
    """Figures that the plan depends on, and their origin."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.mfu is not None and self.run is not None:
            raise ValueError("--mfu and --run both give the speed of the run; leave one of them out")

    @property
    def names_a_gpu(self) -> bool:
        """Whether a GPU, or a figure of one, was given."""
        return any(value is not None for value in (self.gpu, self.gpu_gb, self.peak_tflops, self.memory_tb))

    @property
    def device(self) -> Gpu:
        """The GPU with the figures that were given."""
        given = {"memory_gb": self.gpu_gb, "memory_tb": self.memory_tb, "peak_tflops": self.peak_tflops}
        given["float32_tflops"] = self.peak_tflops
        return replace(GPUS[self.gpu or "h100"], **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ScalingOptions:
    """The machine that is assumed."""

    mfu: Share = PUBLISHED_MFU
    """Part of the peak that the model's operations reach."""
    peak_tflops: Tflops = H100_TFLOPS
    """Peak of a GPU, in bfloat16."""
    gpu_gb: MemorySize = 80.0
    """Memory of a GPU, in 1e9 bytes."""
    reserve_gb: Annotated[float, Interval(ge=0, le=1e4)] = Assumptions.reserve_gb
    """Memory of a GPU that no setting fills, in 1e9 bytes: CUDA's context, NCCL's buffers, fragmentation. Assumed."""
    within_gb: Gigabytes = 450.0
    """GB per second of a GPU within its node."""
    between_gb: Gigabytes = 50.0
    """GB per second of a GPU between nodes."""
    hop_us: Microseconds = 5.0
    """Microseconds per hop."""

    def __post_init__(self) -> None:
        check_ranges(self)
