"""Assumptions of a plan, each with its unit and its origin. None has been measured on a GPU.

Datasheet: by NVIDIA. Counted: by adding up the bytes of DeepSpeed 0.19.8's operations on a CPU, one rank. CPU: measured
as CPU time on one shared core of a Xeon at 2.5 GHz with torch 2.13, the least of several runs under load, for a network
as deep as the giant and so narrow that nothing is computed to speak of; the host of an H100 is probably faster, see
host_speed. Assumed: by judgement, from what is published for similar work.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Interval

from data_pipeline.settings.ranges import Figure, Part, check_ranges

Share = Annotated[float, Interval(ge=0.01, le=1)]
"""Part of a peak that is reached."""
Microseconds = Annotated[float, Interval(ge=0, le=1e5)]
Terabytes = Annotated[float, Interval(ge=0.01, le=1e6)]
"""Bandwidth in 1e12 bytes per second."""
Gigabytes = Annotated[float, Interval(ge=0.01, le=1e5)]
"""Bandwidth in 1e9 bytes per second."""
BytesEach = Annotated[float, Interval(ge=1, le=1000)]
"""Bytes moved per parameter."""
GpuName = Literal["a100", "h100", "h200"]
Origin = Literal["measured", "published", "counted", "assumed"]


@dataclass(frozen=True)
class Gpu:
    """Peaks of a device, which no program exceeds."""

    peak_tflops: Figure
    """Dense matrix products in bfloat16, in 1e12 operations per second."""
    float32_tflops: Figure
    """The same in float32."""
    memory_tb: Figure
    """Bandwidth of its memory, in 1e12 bytes per second."""
    memory_gb: Figure
    """Size of its memory, in 1e9 bytes."""
    link_gb: Figure = 450.0
    """NVLink to the other GPUs of its node, in one direction, in 1e9 bytes per second."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def in_precision(self, precision: Literal["float32", "bfloat16"]) -> "Gpu":
        """Return the GPU with the peak of a precision as its peak."""
        return self if precision == "bfloat16" else replace(self, peak_tflops=self.float32_tflops)


GPUS: dict[GpuName, Gpu] = {
    "a100": Gpu(312.0, 19.5, 2.039, 80.0, link_gb=300.0),
    "h100": Gpu(989.0, 67.0, 3.35, 80.0),
    "h200": Gpu(989.0, 67.0, 4.8, 141.0),
}
"""The SXM versions, the A100 with 80 GB, by NVIDIA's datasheets; float32 without TF32."""


@dataclass(frozen=True)
class Assumptions:
    """Memory that is left free, shares of the peaks that a step reaches, bytes of DeepSpeed, network and host."""

    reserve_gb: Annotated[float, Interval(ge=0, le=1e4)] = 4.0
    """Memory of a GPU that no plan fills, in 1e9 bytes: CUDA's context, buffers of NCCL, workspaces of cuBLAS, and
    fragmentation. Assumed."""
    product_share: Share = 0.62
    """Share of the peak that matrix products reach. Assumed: 0.62 to 0.72 at widths of 1.4k; the best published product
    of any shape reaches 0.80 (stas00/ml-engineering)."""
    attention_forward_share: Share = 0.23
    """Share of the peak that attention's forward reaches. Assumed: 230 TFLOP/s with heads of 88, 257 to 512 tokens."""
    attention_backward_share: Share = 0.18
    """Share of the peak that attention's backward reaches. Assumed: 180 TFLOP/s, likewise."""
    copy_share: Share = 0.9
    """Share of the memory's bandwidth, reading and writing, that a large copy reaches. Assumed."""
    norms_share: Share = 0.8
    """Share of a copy's speed that norms and the other fused kernels reach. Assumed."""
    copies_share: Share = 0.75
    """Share of a copy's speed that concatenating, stacking and selecting rows reach. Assumed."""
    other_share: Share = 0.7
    """Share of a copy's speed that all other operations of torch reach. Assumed."""
    activation_forward_tb: Terabytes = 2.8
    """Bandwidth of the activation kernel's forward, in 1e12 bytes per second, at most 0.85 of a copy's. Assumed: 0.8 of
    the 3.5 that its instructions allow, counted in its code for sm_90 (docs/kernels.md)."""
    activation_backward_tb: Terabytes = 3.5
    """The same for its backward. Assumed: 0.7 of the 5.0 that its instructions allow."""
    optimizer_bytes: BytesEach = 70.0
    """Bytes moved per parameter of a rank's part by DeepSpeed's step. Counted: norm 18, flatten 4, to float32 6, scale
    8, AdamW 28, to bfloat16 6; stages 1 and 2 first look for infinities, 4 more."""
    gradient_bytes: BytesEach = 20.0
    """Bytes moved per parameter and micro-step from a gradient to its bucket and on to its place. Counted in stage 3;
    stages 1 and 2 need 16 to 22."""
    accumulated_gradient_bytes: BytesEach = 6.0
    """The same for a micro-step that reduces nothing, as those of stage 1 before the last: torch adds the gradient to
    the sum of the earlier ones. Counted in its code."""
    within_gb: Gigabytes | None = None
    """GB/s of a GPU within its node, in one direction. None: Datasheet, NVLink of the GPU, at its full speed."""
    between_gb: Gigabytes = 50.0
    """GB/s of a GPU between nodes, in one direction. Assumed: a link of 400 Gb/s for each GPU, at its full speed."""
    hop_us: Microseconds = 5.0
    """Microseconds of a message from node to node. Assumed."""
    overlap: Part = 1.0
    """Share of the communication during forward and backward that runs beside computation, as long as that lasts, and
    does not slow it. Assumed. The last bucket of gradients, and the gather after the step in stages 1 and 2, run beside
    nothing."""
    host_speed: Annotated[float, Interval(ge=0.01, le=1e6)] = 1.0
    """Speed of the host, as a multiple of that of the CPU on which the figures below were measured. Assumed."""
    operation_us: Microseconds = 31.0
    """Microseconds of the host per operation of torch, views and the Python between them included. CPU: 408 ms for the
    12,978 operations of the giant's forward and backward with kernels reference."""
    launch_us: Microseconds = 20.0
    """Microseconds of the host per launch of a Triton kernel. CPU, into a driver that does nothing; a real one adds 2
    to 3."""
    gather_us: Microseconds = 200.0
    """Microseconds of the host per parameter tensor that ZeRO-3 gathers and releases, besides its slices. CPU: 200 ms
    more than without DeepSpeed for the giant's forward with 997 tensors."""
    gather_slice_us: Microseconds = 1.8
    """Microseconds of the host per rank and parameter tensor that ZeRO-3 gathers. CPU: 228 ms for 997 tensors on 128
    ranks (tests/benchmarks/bench_host.py); a GPU adds record_stream."""
    bucket1_us: Microseconds = 46.0
    """Microseconds of the host per gradient that stage 1 puts into a bucket. CPU: 46 ms for 997 tensors."""
    bucket2_us: Microseconds = 137.0
    """The same in stage 2. CPU: 137 ms for 997 tensors."""
    bucket3_us: Microseconds = 311.0
    """The same in stage 3, besides its slices. CPU: 311 us, 310 ms for 997 tensors."""
    reduce_slice_us: Microseconds = 1.2
    """Microseconds of the host per rank and gradient that ZeRO-3 reduces. CPU: 158 ms for 997 tensors on 128 ranks
    (tests/benchmarks/bench_host.py)."""
    step_us: Microseconds = 100.0
    """Microseconds of the host per parameter tensor, whole or in part, that a rank updates. CPU: 100 ms for 997 tensors
    in stage 1, 74 in stage 3."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def bucket_us(self, stage: int) -> float:
        """Return the microseconds of the host per gradient in a ZeRO stage."""
        return {1: self.bucket1_us, 2: self.bucket2_us, 3: self.bucket3_us}[stage]


ORIGINS: dict[str, Origin] = {
    **dict.fromkeys(("optimizer_bytes", "gradient_bytes", "accumulated_gradient_bytes"), "counted"),
    "within_gb": "published",
    **dict.fromkeys(
        ("operation_us", "gather_us", "gather_slice_us", "bucket1_us", "bucket2_us", "bucket3_us", "reduce_slice_us",
         "step_us", "launch_us"), "measured",
    ),
}  # fmt: skip
"""Origin of the defaults that are not assumed; those of the host are measured on a CPU, not on the host of a GPU."""


def origin_of(name: str, assumed: Assumptions) -> Origin:
    """Return where a figure comes from: a value that is not the default one is an assumption of whoever gave it."""
    is_default = getattr(assumed, name) == getattr(Assumptions(), name)
    return ORIGINS.get(name, "assumed") if is_default else "assumed"
