"""Memory of a micro-step: the real model's forward and backward on the meta device, where nothing is computed.

Every setting is accounted for: kernels, activation checkpointing, chunks of the heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.config import KernelChoice
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.kinds import kind_of
from pretrain.planning.live_memory import LiveMemory
from pretrain.planning.planned_kind import MicroBatch


@dataclass(frozen=True)
class MicroStepMemory:
    """Bytes over forward and backward, without weights, accumulated gradients and the inputs of the micro-step."""

    moments: tuple[tuple[int, int], ...]
    """For each stretch between two gradients: the bytes of gradients so far (each is freed as soon as it is there), and
    the peak of all other bytes."""

    @property
    def activations(self) -> int:
        """Peak over the whole micro-step."""
        return max(live for _, live in self.moments)

    def peak(self, after: int, extra: int) -> tuple[int, int]:
        """Return activations and extra bytes at the moment when their sum is largest.

        extra: bytes held once there have been `after` bytes of gradients, 0 before that.
        """
        return max(((live, extra if gradients >= after else 0) for gradients, live in self.moments), key=sum)


def _flash_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    """Attend, keeping for backward what FlashAttention keeps: its output and one float per row."""
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:3], key.shape[2])
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attend(query, key, value, 0.0, False, attn_mask=attn_mask)[0]


@contextmanager
def flash_attention_on_meta() -> Iterator[None]:
    """Make attention on the meta device as lean as on a GPU or CPU; torch would write out the scores there."""
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("scaled_dot_product_attention", _flash_attention, "AutogradMeta")
        yield


@cache
def micro_step_memory(config: EncoderRunConfig, batch: MicroBatch, kernels: KernelChoice) -> MicroStepMemory:
    """Return the memory of forward, losses and backward. kernels: reference or triton; neither needs a GPU here."""
    kind = kind_of(config)
    micro, model = kind.micro_step(config, batch), kind.network(config, kernels)
    memory, moments, gradients = LiveMemory(), [], 0

    def free(parameter: Tensor) -> None:
        nonlocal gradients
        assert parameter.grad is not None
        moments.append((gradients, memory.peak_so_far()))
        gradients += parameter.grad.nbytes
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(free)
    with flash_attention_on_meta(), memory:
        loss = kind.loss(model, micro)
        held = kind.loss_of_the_batch(config, batch)
        loss.backward()
    del held
    return MicroStepMemory((*moments, (gradients, memory.peak_so_far())))
