"""Options of the planning commands."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from data_pipeline.settings.ranges import Count, Figure, check_ranges

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
    gpu_gb: Figure = 80.0
    """Memory of a GPU, in 1e9 bytes."""

    def __post_init__(self) -> None:
        check_ranges(self)


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
