"""Time of a step on paper: each operation takes its FLOPs or its bytes, whichever is longer, at an assumed speed.

    GPU          sum over operations of max(FLOPs / (share x peak), bytes / (share x bandwidth))
    forward      the longer of GPU and communication; backward too
    micro-step   the longer of forward + backward and the host, which runs ahead of the GPU
    step         micro-steps + last bucket of gradients + optimizer + gather of the weights (stages 1 and 2)
                 contrastive stage: + forwards without gradients + gather of the features + the loss of the global batch

Under hpZ the host waits for the GPU at every parameter of the forward, so that their times add up there. Not counted:
gaps between kernels, ranks that wait for each other, and that stage 2 waits for the device at every full bucket.

Source of the idea: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model" (2009).
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from pretrain.planning.assumptions import Assumptions, Gpu

Part = Literal[
    "products",
    "attention forward",
    "attention backward",
    "activation forward",
    "activation backward",
    "norms and sums",
    "copies",
    "other operations",
]
"""Kind of an operation: those that share an assumption."""
GRADIENTS, OPTIMIZER, COMMUNICATION, WAITING = (
    "gradients to DeepSpeed", "optimizer", "communication that is not hidden", "waiting for the host",
)  # fmt: skip
ASSUMED: dict[str, tuple[str, ...]] = {
    "products": ("product_share",),
    "attention forward": ("attention_forward_share",),
    "attention backward": ("attention_backward_share",),
    "activation forward": ("activation_forward_tb",),
    "activation backward": ("activation_backward_tb",),
    "norms and sums": ("copy_share", "norms_share"),
    "copies": ("copy_share", "copies_share"),
    "other operations": ("copy_share", "other_share"),
    GRADIENTS: ("copy_share", "gradient_bytes", "accumulated_gradient_bytes"),
    OPTIMIZER: ("copy_share", "optimizer_bytes"),
    COMMUNICATION: ("within_gb", "between_gb", "hop_us", "overlap"),
    WAITING: (
        "host_speed",
        "operation_us",
        "launch_us",
        "gather_us",
        "gather_slice_us",
        "bucket1_us",
        "bucket2_us",
        "bucket3_us",
        "reduce_slice_us",
        "step_us",
    ),
}
"""The assumptions that the time of each part depends on."""
AVERAGE_BYTES = 12.0
"""Bytes moved per parameter of a rank's part to move the average of the weights towards them: both are read, the
average is written. Counted."""
_MOST_OF_A_COPY = 0.85
"""Share of a copy's speed that activations, gradients and the optimizer reach at most."""


@dataclass(frozen=True)
class Operation:
    """An operation of a GPU."""

    part: Part
    flops: int
    """Operations of matrix products, 2 per multiply-add."""
    num_bytes: int
    """Read and written."""


@dataclass(frozen=True)
class PhaseWork:
    """Operations of a forward or a backward."""

    operations: dict[Operation, int]
    """The number of each."""
    num_dispatched: int
    """Operations of torch that the host dispatches, views included."""
    num_launches: int
    """Launches of Triton kernels."""


NO_WORK = PhaseWork({}, 0, 0)


@dataclass(frozen=True)
class MicroStepWork:
    """Work of the network in a micro-step, without DeepSpeed."""

    forward: PhaseWork
    backward: PhaseWork
    once: PhaseWork = NO_WORK
    """Work of the whole step between the first forward and its backward, in float32: the loss of the global batch."""


@dataclass(frozen=True)
class PhaseSharding:
    """Work that a ZeRO stage adds to a forward or a backward."""

    communication: float = 0.0
    """Seconds of communication beside it."""
    num_gathered: int = 0
    """Tensors that ZeRO-3 gathers."""
    gather_ranks: int = 0
    """Ranks that each of them is gathered from: the host cuts a slice for each."""
    num_reduced: int = 0
    """Tensors whose gradients are put into buckets."""
    reduce_ranks: int = 0
    """Ranks that ZeRO-3 cuts each of them for; 0 in stages 1 and 2, which reduce a bucket as it is."""


@dataclass(frozen=True)
class ShardingWork:
    """Work that a ZeRO stage adds to a rank's step."""

    num_parameters: int
    stage: int
    num_ranks: int
    """Ranks that share the optimizer's state."""
    num_updated: int
    """Parameter tensors that a rank updates, whole or in part."""
    forward: PhaseSharding
    backward: PhaseSharding
    """The backward of a micro-step that is not the last one."""
    last_backward: PhaseSharding
    tail_seconds: float = 0.0
    """Communication after the last backward: the last bucket of gradients."""
    after_seconds: float = 0.0
    """Communication after the optimizer: the gather of the weights."""
    loss_seconds: float = 0.0
    """Communication of the loss of the global batch, beside which nothing is computed."""
    num_forwards_again: int = 0
    """Forwards without gradients in a step, besides one for each micro-step."""
    waits_in_forward: bool = False
    """Whether the host waits for the GPU all through the forward."""
    keeps_average: bool = False
    """Whether the run keeps a moving average of its weights."""


@dataclass(frozen=True)
class StepTime:
    """Predicted seconds of a step."""

    parts: dict[str, float]
    """Seconds by part, in the order of ASSUMED; they add up to the step."""
    host: float
    """Seconds in which the host works, whether the GPU works too or not."""
    communication: float
    """Seconds of communication, hidden or not."""
    flops: float
    """Operations of the model on this rank."""
    peak_flops: float
    """Operations per second of the GPU at its peak."""

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    @property
    def compute(self) -> float:
        """Seconds in which the GPU computes."""
        return self.seconds - self.parts[COMMUNICATION] - self.parts[WAITING]

    @property
    def mfu(self) -> float:
        """Model FLOPs utilization."""
        return self.flops / self.seconds / self.peak_flops

    @property
    def host_share(self) -> float:
        """Share of the step in which the GPU waits for the host."""
        return self.parts[WAITING] / self.seconds


@dataclass(frozen=True)
class _PhaseTime:
    """Predicted seconds of a forward or a backward."""

    parts: dict[str, float]
    """Seconds of the GPU by part."""
    exposed: float
    """Seconds of communication in which the GPU does not compute."""
    host: float

    @property
    def busy(self) -> float:
        """Seconds until the GPU is done, if the host is never late."""
        return sum(self.parts.values()) + self.exposed


def predict_step(
    work: MicroStepWork, sharding: ShardingWork, num_micro_steps: int, flops: float, gpu: Gpu, assumed: Assumptions
) -> StepTime:
    """Return the time of a step. flops: operations of the model on one rank in the whole step."""
    backwards = [sharding.backward] * (num_micro_steps - 1) + [sharding.last_backward]
    parts, host = dict.fromkeys(ASSUMED, 0.0), 0.0
    for backward in backwards:
        more, working = _micro_step(work, sharding, backward, gpu, assumed)
        parts = {part: parts[part] + more[part] for part in ASSUMED}
        host += working
    again = _phase_time(work.forward, sharding.forward, sharding.stage, gpu, assumed)
    once = _phase_time(work.once, PhaseSharding(), sharding.stage, gpu.in_precision("float32"), assumed)
    for time, count, waits in ((again, sharding.num_forwards_again, sharding.waits_in_forward), (once, 1, False)):
        for part, seconds in time.parts.items():
            parts[part] += count * seconds
        parts[COMMUNICATION] += count * time.exposed
        parts[WAITING] += count * (time.host if waits else max(0.0, time.host - time.busy))
        host += count * time.host
    stepping = assumed.step_us * sharding.num_updated / (assumed.host_speed * 1e6)
    parts[OPTIMIZER] = optimizer_seconds(sharding, gpu, assumed)
    parts[WAITING] += max(0.0, stepping - parts[OPTIMIZER])
    alone = sharding.loss_seconds + sharding.tail_seconds + sharding.after_seconds
    parts[COMMUNICATION] += alone
    communication = sum(sharding.forward.communication + backward.communication for backward in backwards) + alone
    communication += sharding.num_forwards_again * sharding.forward.communication
    return StepTime(parts, host + stepping, communication, flops, gpu.peak_tflops * 1e12)


def _micro_step(
    work: MicroStepWork, sharding: ShardingWork, backward: PhaseSharding, gpu: Gpu, assumed: Assumptions
) -> tuple[dict[str, float], float]:
    """Return the seconds of a micro-step by part, and those in which the host works."""
    num_bytes = assumed.gradient_bytes if backward.num_reduced else assumed.accumulated_gradient_bytes
    gradients = sharding.num_parameters * num_bytes / _bulk_speed(gpu, assumed)
    first = _phase_time(work.forward, sharding.forward, sharding.stage, gpu, assumed)
    second = _phase_time(work.backward, backward, sharding.stage, gpu, assumed, {GRADIENTS: gradients})
    parts = {part: first.parts.get(part, 0.0) + second.parts.get(part, 0.0) for part in ASSUMED}
    parts[COMMUNICATION] = first.exposed + second.exposed
    if sharding.waits_in_forward:
        parts[WAITING] = first.host + max(0.0, second.host - second.busy)
    else:
        parts[WAITING] = max(0.0, first.host + second.host - first.busy - second.busy)
    return parts, first.host + second.host


def _phase_time(
    work: PhaseWork,
    sharding: PhaseSharding,
    stage: int,
    gpu: Gpu,
    assumed: Assumptions,
    more: dict[str, float] | None = None,
) -> _PhaseTime:
    """Return the time of a phase. more: seconds of further parts."""
    parts = gpu_seconds(work, gpu, assumed) | (more or {})
    exposed = exposed_seconds(sum(parts.values()), sharding.communication, assumed.overlap)
    return _PhaseTime(parts, exposed, host_seconds(work, sharding, stage, assumed))


def gpu_seconds(phase: PhaseWork, gpu: Gpu, assumed: Assumptions) -> dict[str, float]:
    """Return the seconds in which the GPU computes a phase, by part."""
    seconds: dict[str, float] = defaultdict(float)
    for operation, count in phase.operations.items():
        flops_per_second, bytes_per_second = speeds(operation.part, gpu, assumed)
        longer = max(operation.flops / flops_per_second, operation.num_bytes / bytes_per_second)
        seconds[operation.part] += count * longer
    return seconds


def speeds(part: Part, gpu: Gpu, assumed: Assumptions) -> tuple[float, float]:
    """Return the operations and the bytes per second that are assumed for a part."""
    peak, copy = gpu.peak_tflops * 1e12, assumed.copy_share * gpu.memory_tb * 1e12
    bulk = _bulk_speed(gpu, assumed)
    match part:
        case "products":
            return assumed.product_share * peak, copy
        case "attention forward":
            return assumed.attention_forward_share * peak, copy
        case "attention backward":
            return assumed.attention_backward_share * peak, copy
        case "activation forward":
            return peak, min(assumed.activation_forward_tb * 1e12, bulk)
        case "activation backward":
            return peak, min(assumed.activation_backward_tb * 1e12, bulk)
        case "norms and sums":
            return peak, assumed.norms_share * copy
        case "copies":
            return peak, assumed.copies_share * copy
        case "other operations":
            return peak, assumed.other_share * copy


def _bulk_speed(gpu: Gpu, assumed: Assumptions) -> float:
    return _MOST_OF_A_COPY * assumed.copy_share * gpu.memory_tb * 1e12


def optimizer_seconds(sharding: ShardingWork, gpu: Gpu, assumed: Assumptions) -> float:
    """Return the seconds in which the GPU updates a rank's part of the weights, and of their average."""
    num_bytes = assumed.optimizer_bytes + AVERAGE_BYTES * sharding.keeps_average
    return sharding.num_parameters / sharding.num_ranks * num_bytes / _bulk_speed(gpu, assumed)


def host_seconds(phase: PhaseWork, sharding: PhaseSharding, stage: int, assumed: Assumptions) -> float:
    """Return the seconds that the host needs to launch a phase."""
    gather = assumed.gather_us + assumed.gather_slice_us * sharding.gather_ranks
    reduce = assumed.bucket_us(stage) + assumed.reduce_slice_us * sharding.reduce_ranks
    network = assumed.operation_us * phase.num_dispatched + assumed.launch_us * phase.num_launches
    return (network + gather * sharding.num_gathered + reduce * sharding.num_reduced) / (assumed.host_speed * 1e6)


def exposed_seconds(computing: float, communication: float, overlap: float) -> float:
    """Return the seconds of communication in which the GPU does not compute."""
    beside = overlap * communication
    return max(0.0, beside - computing) + communication - beside
