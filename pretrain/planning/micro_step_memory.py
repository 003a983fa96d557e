"""Memory of a micro-step: the real model's forward and backward on the meta device, where nothing is computed.

Allocations of its operations are added up, and subtracted when torch frees them, so every setting is accounted for:
kernels, activation checkpointing, chunks of the heads. Temporary memory inside an operation is not seen.

Source of the idea: torch.distributed._tools.mem_tracker, which also wraps modules and optimizers.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model.config import KernelChoice, VisualTokenizerConfig
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayInputs
from model.objective import num_masked
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.micro_step import MicroStep
from pretrain.jobs.visual_tokens import tokenizer_view_size


@dataclass(frozen=True)
class MicroBatch:
    """Samples of each kind in one forward and backward of a rank."""

    images: int
    pairs: int
    texts: int


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


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that are still alive, each storage once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        """Peak since the last call of `peak_so_far`."""
        self._known: dict[int, weakref.finalize[..., Any]] = {}

    def peak_so_far(self) -> int:
        """Return the peak since the last call."""
        peak, self.peak = self.peak, self.live
        return peak

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = {id(tensor.untyped_storage()) for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(outputs):
            storage = tensor.untyped_storage()
            key = id(storage)
            if key not in given and key not in self._known:
                self.live += storage.nbytes()
                self._known[key] = weakref.finalize(storage, self._freed, key, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return outputs

    def _freed(self, key: int, num_bytes: int) -> None:
        del self._known[key]
        self.live -= num_bytes


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)


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
def micro_step_memory(config: PretrainConfig, batch: MicroBatch, kernels: KernelChoice) -> MicroStepMemory:
    """Return the memory of forward, losses and backward. kernels: reference or triton; neither needs a GPU here."""
    micro = meta_micro_step(config, batch)
    with torch.device("meta"):
        model = MaskedDataModel(config.model, kernels, config.activation_checkpointing).to(config.dtype)
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
        model(micro.inputs, micro.targets, micro.drop_path_scale).sum().backward()
    return MicroStepMemory((*moments, (gradients, memory.peak_so_far())))


@cache
def tokenizer_memory(visual: VisualTokenizerConfig, view: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """Return the bytes of the frozen visual tokenizer's weights, and its peak besides them, the pixels included.

    view: shape (B, 3, S, S) of the pixels; dtype: type of its matrix products.
    """
    with FakeTensorMode():  # the meta device knows no autocast
        tokenizer = VisualTokenizer(visual).requires_grad_(False)
        weights = sum(tensor.nbytes for tensor in [*tokenizer.parameters(), *tokenizer.buffers()])
        memory = LiveMemory()
        with memory:
            tokenizer.tokenize(torch.empty(view), dtype)
    return weights, memory.peak


def meta_micro_step(config: PretrainConfig, batch: MicroBatch) -> MicroStep:
    """Return the micro-step of pretrain/jobs/micro_step.py as tensors without content, with the longest captions and
    texts. Shorter ones have fewer rows, but need a padded copy of the words' last states."""
    network, objective, data = config.model, config.objective, config.data
    caption_lengths, text_lengths = (data.caption_length,) * batch.pairs, (data.text_length,) * batch.texts
    (caption_places,) = num_masked([data.caption_length], objective.caption_mask_ratio)
    (text_places,) = num_masked([data.text_length], objective.text_mask_ratio)
    num_images = batch.images + batch.pairs

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device="meta")

    def booleans(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bool, device="meta")

    size = network.image_size
    inputs = MultiwayInputs(
        images=torch.empty(num_images, 3, size, size, dtype=config.dtype, device="meta"),
        image_mask=booleans(num_images, network.num_patches),
        caption_ids=integers(batch.pairs, data.caption_length),
        caption_padding=booleans(batch.pairs, data.caption_length),
        text_ids=integers(batch.texts, data.text_length),
        text_padding=booleans(batch.texts, data.text_length),
        caption_lengths=caption_lengths,
        text_lengths=text_lengths,
    )
    targets = MaskedTargets(
        image_positions=integers(num_images, config.num_masked_patches),
        visual_token_ids=integers(num_images, config.num_masked_patches),
        caption_positions=integers(batch.pairs, caption_places),
        caption_labels=integers(batch.pairs, caption_places),
        text_positions=integers(batch.texts, text_places),
        text_labels=integers(batch.texts, text_places),
        caption_counts=num_masked(caption_lengths, objective.caption_mask_ratio),
        text_counts=num_masked(text_lengths, objective.text_mask_ratio),
    )
    scale = None
    if network.drop_path_rate:
        scale = torch.empty(network.depth, 2, num_images + batch.texts, device="meta")
    return MicroStep(inputs, targets, scale)


def batch_bytes(config: PretrainConfig, batch: MicroBatch, visual: VisualTokenizerConfig) -> int:
    """Return the bytes of the inputs of a step, which are made for all micro-steps before the first one begins: pixels
    as read, also those of the next batch, which is copied ahead, and the inputs and targets made from them."""
    micro = meta_micro_step(config, batch)
    side = max(config.model.image_size, tokenizer_view_size(visual, config.model))
    pixels = 2 * (batch.images + batch.pairs) * 3 * side**2
    made = sum(tensor.nbytes for part in (micro.inputs, micro.targets) for tensor in tensors_in(vars(part)))
    scale = 0 if micro.drop_path_scale is None else micro.drop_path_scale.nbytes
    return config.gradient_accumulation_steps * (pixels + made + scale)
