"""Peak memory of a rank, predicted: DeepSpeed's share by formula, activations by a step on the meta device.

DeepSpeed 0.19.8 (runtime/zero/stage3.py, stage_1_and_2.py), for P parameters on N ranks, w = 2 bytes per weight if
precision is bfloat16 and 4 if it is float32; gradients are kept and reduced in the same type:

| | stage 1 | stage 2 | stage 3 |
| --- | --- | --- | --- |
| weights | w P | w P | w P / N, and w P / hpz with hpZ |
| float32 weights, both moments of Adam | 12 P / N | 12 P / N | 12 P / N |
| moving average of the weights, if there is one | 4 P / N | 4 P / N | 4 P / N |
| gradients of earlier micro-steps | w P | w P / N | w P / N, also with one micro-step |
| ... of this one, once a bucket is full | w P / N in the last | w P / N | none besides a bucket |
| buckets of gradients | w bucket, twice with overlap_comm | the same | w bucket |
| ... copied once a bucket is full | w bucket on several ranks | the same | w bucket |
| gathered weights | none | none | below |

Stage 3 gathers a block as one piece (a leaf module), prefetches up to stage3_prefetch_bucket_size weights of the next
pieces, keeps those that are used again within stage3_max_reuse_distance (the last blocks, at the end of forward, when
activations are at their peak), and copies gathered weights out of the collective's buffer. At most, all of these are
held at once, the largest piece twice, and the small parameters that stay gathered. On one rank nothing is gathered. The
optimizer step makes the float32 gradient of its part (stage 3: of a sub-group) from a flat copy. Offloading to the CPU
takes float32 weights, moments, average and gradients off the GPU, and with offload_param the weights as well. Float32
weights are a copy even if precision is float32.

Not counted: CUDA's context, workspaces of NCCL and cuBLAS, fragmentation of the allocator.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from model.config import KernelChoice
from model.multiway import MultiwayBlock
from pretrain.config.run_config import EncoderRunConfig
from pretrain.engine.memory_config import zero_settings
from pretrain.planning.kinds import kind_of
from pretrain.planning.micro_step_memory import micro_step_memory
from pretrain.planning.planned_kind import MicroBatch

if TYPE_CHECKING:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig


@dataclass(frozen=True)
class RankMemory:
    """Bytes per rank."""

    weights: int
    optimizer: int
    """Float32 weights, moments and, if the recipe keeps one, the average of the weights."""
    gradients: int
    buffers: int
    """Buckets of gradients, and gathered weights."""
    activations: int
    """At the peak of forward and backward."""
    tokenizer: int
    """The visual tokenizer's weights."""
    batch: int
    """The samples of the step."""
    beyond: int
    """Excess of tokenizing, or of the optimizer step, over forward and backward with their buffers."""

    @property
    def state(self) -> int:
        return self.weights + self.optimizer + self.gradients

    @property
    def total(self) -> int:
        return self.state + self.buffers + self.activations + self.tokenizer + self.batch + self.beyond


@dataclass(frozen=True)
class Pieces:
    """Numbers of parameters, as ZeRO-3 gathers them."""

    num_tensors: int
    """Tensors of parameters, as DeepSpeed sees them."""
    total: int
    largest: int
    """Parameters of the largest piece."""
    persistent: int
    """Parameters in tensors below the persistence threshold, which stay gathered."""


def rank_memory(
    config: EncoderRunConfig,
    memory_config: dict[str, Any],
    world_size: int,
    kernels: KernelChoice = "triton",
    device: str = "cuda",
) -> RankMemory:
    """Return the peak memory of a rank.

    kernels: reference or triton; device: the device of the run, which decides the visual tokenizer's precision. Raises
    ValueError if ranks and micro-steps do not divide the batch.
    """
    zero = zero_settings(memory_config)
    batch = micro_batch(config, world_size)
    pieces = count_pieces(config, int(zero.param_persistence_threshold))
    kind = kind_of(config)
    micro_step = micro_step_memory(kind.of_the_forward(config), batch, kernels)
    frozen, frozen_peak = kind.frozen_memory(config, batch, torch.device(device))
    step = _stage3 if zero.stage == 3 else _stages_1_and_2
    held = step(zero, pieces, config.dtype.itemsize, world_size, config.gradient_accumulation_steps > 1)
    average = held.optimizer // 3 if config.optimizer.ema_decay else 0  # 4 bytes beside 12, on the same device
    bucket = config.dtype.itemsize * min(int(zero.reduce_bucket_size), pieces.total)
    activations, extra = micro_step.peak(bucket, held.late_gradients + held.late_buffers)
    is_late = extra > 0
    working = held.buffers + activations + extra
    return RankMemory(
        weights=held.weights,
        optimizer=held.optimizer + average,
        gradients=held.gradients + is_late * held.late_gradients,
        buffers=held.buffers + is_late * held.late_buffers,
        activations=activations,
        tokenizer=frozen,
        batch=kind.batch_bytes(config, batch),
        beyond=max(frozen_peak, held.stepping, working) - working,
    )


def planned_kernels(config: EncoderRunConfig) -> KernelChoice:
    """Return the kernels of the recipe on a GPU. apex is counted as the reference, which it is close to."""
    return "triton" if config.kernels in ("auto", "triton") else "reference"


def micro_batch(config: EncoderRunConfig, world_size: int) -> MicroBatch:
    """Return a rank's part of a micro-step. Raises ValueError if the global batch does not divide."""
    return MicroBatch(**vars(config.micro_batch(world_size)))


def count_pieces(config: EncoderRunConfig, persistence_threshold: int) -> Pieces:
    """Return the sizes of the pieces: blocks, and outside of blocks single modules."""
    return _pieces_of(kind_of(config).of_the_forward(config), persistence_threshold)


@cache
def _pieces_of(config: EncoderRunConfig, persistence_threshold: int) -> Pieces:
    model = kind_of(config).network(config, "reference")
    inside = {id(module) for block in model.modules() if isinstance(block, MultiwayBlock) for module in block.modules()}
    sizes = [
        sum(parameter.numel() for parameter in module.parameters(recurse=isinstance(module, MultiwayBlock)))
        for module in model.modules()
        if isinstance(module, MultiwayBlock) or id(module) not in inside
    ]
    numels = [parameter.numel() for parameter in model.parameters()]
    small = [numel for numel in numels if numel <= persistence_threshold]
    return Pieces(len(numels), sum(numels), max(sizes), sum(small))


@dataclass(frozen=True)
class _Held:
    """Bytes that DeepSpeed holds: always, from the first full bucket of gradients on (late), and in the step."""

    weights: int
    optimizer: int
    gradients: int
    buffers: int
    late_gradients: int
    late_buffers: int
    stepping: int


def _stage3(zero: "DeepSpeedZeroConfig", pieces: Pieces, itemsize: int, ranks: int, has_micro_steps: bool) -> _Held:
    """Return the bytes of the stage that partitions weights, gradients and optimizer state."""
    part = -(-pieces.total // ranks)
    bucket = int(zero.reduce_bucket_size)
    buffers = itemsize * bucket
    if ranks > 1:
        prefetched = min(int(zero.prefetch_bucket_size), int(zero.max_live_parameters))
        kept = int(zero.max_reuse_distance) + pieces.persistent
        gathered = min(pieces.total, pieces.largest + prefetched + kept) + pieces.largest
        buffers += itemsize * gathered
    weights = 0 if is_offloaded_to_host(zero.offload_param) else itemsize * part
    if zero.zero_hpz_partition_size > 1:
        weights += itemsize * -(-pieces.total // zero.zero_hpz_partition_size)
    is_offloaded = is_offloaded_to_host(zero.offload_optimizer)
    flat = (itemsize + (4 if itemsize < 4 else 0)) * min(part, int(zero.sub_group_size))
    return _Held(
        weights=weights,
        optimizer=0 if is_offloaded else 12 * part,
        gradients=0 if is_offloaded else itemsize * part,
        buffers=buffers,
        late_gradients=0,
        late_buffers=itemsize * min(bucket, pieces.total),
        stepping=itemsize * bucket + (0 if is_offloaded else flat),
    )


def _stages_1_and_2(
    zero: "DeepSpeedZeroConfig", pieces: Pieces, itemsize: int, ranks: int, has_micro_steps: bool
) -> _Held:
    """Return the bytes of the stages that hold all weights.

    Offloading takes the float32 gradients along, and under stage 2 those of earlier micro-steps.
    """
    part = -(-pieces.total // ranks)
    bucket = int(zero.reduce_bucket_size)
    is_offloaded = is_offloaded_to_host(zero.offload_optimizer)
    gradients = 0
    if has_micro_steps:
        gradients = itemsize * pieces.total if zero.stage == 1 else 0 if is_offloaded else itemsize * part
    return _Held(
        weights=itemsize * pieces.total,
        optimizer=0 if is_offloaded else 12 * part,
        gradients=gradients,
        buffers=itemsize * bucket * (2 if zero.overlap_comm else 1),
        late_gradients=0 if is_offloaded else itemsize * part,
        late_buffers=itemsize * min(bucket, pieces.total) if ranks > 1 else 0,
        stepping=0 if is_offloaded else (2 * itemsize + (4 if itemsize < 4 else 0)) * part,
    )


def is_offloaded_to_host(offload: Any) -> bool:
    """Return whether a block offload_optimizer or offload_param takes its state off the GPU."""
    return offload is not None and offload.device != "none"
