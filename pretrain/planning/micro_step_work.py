"""Work of a micro-step: the operations of the real model's forward and backward, counted on the meta device.

Every setting is accounted for: experts and their rows, shared or decoupled attention, kernels, and what activation
checkpointing computes again. Nothing is assumed to stay in caches: an operation of torch reads its inputs and writes
its outputs, a kernel of Triton reads or writes each of its tensors once.

Attention of S queries and keys of width K costs 4 S S K operations forward; FlashAttention's backward computes the
scores again, five products instead of two: 2.5 times as much (arXiv 2205.14135).
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from model.config import KernelChoice
from model.kernels.language import on_meta_launch
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.kinds import kind_of
from pretrain.planning.live_memory import tensors_in
from pretrain.planning.micro_step_memory import flash_attention_on_meta
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.roofline import MicroStepWork, Operation, Part, PhaseWork

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "expert_products")
_COPIES = ("cat", "stack", "index_select", "copy_", "clone", "_to_copy", "index_copy_")
_SELECTIONS = ("index_select", "embedding", "gather", "index")
"""Operations that read only as much of their source as they return."""
_OVERWRITING = ("copy_", "fill_", "zero_")
"""Operations that do not read the tensor they write."""
_FUSED_ADAMW = "_fused_adamw_"
_KERNELS: dict[str, Part] = {
    "_expert_activation_forward": "activation forward",
    "_expert_activation_backward": "activation backward",
}
"""Kernels of Triton with an assumption of their own; all others are norms and sums."""
_ATTENTION_BACKWARD = 2.5
"""Operations of attention's backward, as a multiple of its forward's."""


class WorkCounter(TorchDispatchMode):
    """Counts the operations of torch, and on the meta device launches of Triton, by part, FLOPs and bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: Counter[Operation] = Counter()
        self._dispatched = 0
        self._launches = 0

    def work_so_far(self) -> PhaseWork:
        """Return the work since the last call."""
        work = PhaseWork(dict(self._operations), self._dispatched, self._launches)
        self._operations, self._dispatched, self._launches = Counter(), 0, 0
        return work

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self._dispatched += 1
        if num_bytes := operation_bytes(func, args, kwargs or {}, outputs):
            name = _name(func)
            flops = _attention_flops(name, args) if "attention" in name else _flops(func, args, kwargs or {}, outputs)
            self._operations[Operation(_part(name), flops, num_bytes)] += 1
        return outputs

    @contextmanager
    def launches(self) -> Iterator[None]:
        """Count Triton's launches too."""
        on_meta_launch.append(self._launched)
        try:
            yield
        finally:
            on_meta_launch.remove(self._launched)

    def _launched(self, kernel: str, arguments: list[Any]) -> None:
        self._launches += 1
        num_bytes = sum(map(_touched_bytes, tensors_in(arguments)))  # one that is overwritten is passed twice
        self._operations[Operation(_KERNELS.get(kernel, "norms and sums"), 0, num_bytes)] += 1


def operation_bytes(func: Any, args: Any, kwargs: Any, outputs: Any) -> int:
    """Return the bytes that an operation of torch reads and writes; views move none."""
    if func.is_view or func in (torch.ops.aten.detach.default, torch.ops.aten._reshape_alias.default):
        return 0
    name = _name(func)
    is_fill = "zeros" in name or "ones" in name or "empty" in name
    inputs = {key: value for key, value in kwargs.items() if key != "out"}
    read = [] if is_fill else [_touched_bytes(tensor) for tensor in tensors_in((args, inputs))]
    written = [] if "empty" in name else [_touched_bytes(tensor) for tensor in tensors_in(outputs)]
    if name in _OVERWRITING:
        read = read[1:]
    if name == _FUSED_ADAMW:  # returns nothing, but writes weights and both moments
        written = [_touched_bytes(tensor) for position in (0, 2, 3) for tensor in args[position]]
    if name in _SELECTIONS:
        read[0] = min(read[0], written[0])
    if name == "native_layer_norm_backward":
        read += map(_touched_bytes, args[:2])  # once for the input's gradient, once for the parameters'
    return sum(read) + sum(written)


def _name(func: Any) -> str:
    """Return the name of an operation without its library and its overload: mm of aten::mm.out."""
    return str(func.name()).rpartition("::")[2].partition(".")[0]


def _touched_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, those that it repeats by expansion once."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def _part(name: str) -> Part:
    if name in _PRODUCTS:
        return "products"
    if "attention" in name:
        return "attention backward" if "backward" in name else "attention forward"
    return "copies" if name in _COPIES else "other operations"


def _flops(func: Any, args: Any, kwargs: Any, outputs: Any) -> int:
    """Return the operations of a matrix product, 2 per multiply-add, and 0 for all others."""
    formula = flop_registry.get(func.overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=outputs))


def _attention_flops(name: str, args: Any) -> int:
    """Return the operations of attention, whose form for CPUs torch's registry lacks."""
    is_backward = "backward" in name
    query, key = args[1:3] if is_backward else args[:2]  # (B, H, S, K); backward's first argument is a gradient
    forward = 4 * prod(query.shape) * int(key.shape[2])
    return int(_ATTENTION_BACKWARD * forward) if is_backward else forward


@cache
def micro_step_work(config: EncoderRunConfig, batch: MicroBatch, kernels: KernelChoice) -> MicroStepWork:
    """Return the work of forward, losses and backward with the longest captions and texts.

    kernels: reference or triton; neither needs a GPU here.
    """
    kind = kind_of(config)
    micro, model = kind.micro_step(config, batch), kind.network(config, kernels)
    counter = WorkCounter()
    with flash_attention_on_meta(), counter, counter.launches():
        loss = kind.loss(model, micro)
        forward = counter.work_so_far()
        kind.loss_of_the_batch(config, batch)
        once = counter.work_so_far()
        loss.backward()
        backward = counter.work_so_far()
    return MicroStepWork(forward, backward, once)
