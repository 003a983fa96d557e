"""Options of the planning commands."""

from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Interval

from data_pipeline.settings.ranges import Count, Figure, check_ranges
from pretrain.planning.assumptions import GPUS, Assumptions, Gpu, GpuName

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
    gpu: GpuName = "h100"
    """GPU whose peaks, by its datasheet, are assumed; the three options below change them."""
    gpu_gb: Figure | None = None
    """Memory of a GPU, in 1e9 bytes. None: the GPU's own."""
    peak_tflops: Figure | None = None
    """Peak of matrix products in the recipe's precision, in 1e12 operations per second. None: the GPU's own."""
    memory_tb: Figure | None = None
    """Bandwidth of a GPU's memory, in 1e12 bytes per second. None: the GPU's own."""
    assume: Assumptions = field(default_factory=Assumptions)
    """Figures that the predicted time depends on, and their origin."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def device(self) -> Gpu:
        """The GPU with the figures that were given."""
        given = {"memory_gb": self.gpu_gb, "memory_tb": self.memory_tb, "peak_tflops": self.peak_tflops}
        given["float32_tflops"] = self.peak_tflops
        return replace(GPUS[self.gpu], **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class ScalingOptions:
    """The machine that is assumed."""

    mfu: Annotated[float, Interval(gt=0, le=1)] = PUBLISHED_MFU
    """Part of the peak that the model's operations reach."""
    peak_tflops: Figure = H100_TFLOPS
    """Peak of a GPU, in bfloat16."""
    gpu_gb: Figure = 80.0
    """Memory of a GPU, in 1e9 bytes."""
    within_gb: Figure = 450.0
    """GB per second of a GPU within its node."""
    between_gb: Figure = 50.0
    """GB per second of a GPU between nodes."""
    hop_us: Figure = 5.0
    """Microseconds per hop."""

    def __post_init__(self) -> None:
        check_ranges(self)
