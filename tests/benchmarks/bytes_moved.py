"""Bytes that the operations of a function read and write, counted as if nothing stayed in caches."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._inductor import compile_fx, config, metrics
from torch.utils._python_dispatch import TorchDispatchMode


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if func.is_view or func in (torch.ops.aten.detach.default, torch.ops.aten._reshape_alias.default):
            return outputs
        is_fill = "zeros" in func.name() or "ones" in func.name() or "empty" in func.name()
        read = [] if is_fill else list(_tensors((args, kwargs)))
        written = [] if "empty" in func.name() else list(_tensors(outputs))
        if func.name() == "aten::native_layer_norm_backward":
            read += [args[0], args[1]]  # once for the input's gradient, once for the parameters'
        self.num_bytes += sum(tensor.nbytes for tensor in [*read, *written])
        return outputs


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def eager_bytes(function: Callable[..., Any], inputs: list[Tensor]) -> tuple[int, int]:
    """Return the bytes moved by a function's forward and by its backward, operation by operation."""
    with _Counter() as forward:
        outputs = _outputs(function(*inputs))
    grads = [torch.ones_like(output) for output in outputs]
    with _Counter() as backward:
        torch.autograd.grad(outputs, inputs, grads)
    return forward.num_bytes, backward.num_bytes


def compiled_bytes(function: Callable[..., Any], inputs: list[Tensor]) -> tuple[int, int]:
    """Return the same for the function under torch.compile, as Inductor counts its kernels."""
    torch._dynamo.reset()
    metrics.reset()
    logger = compile_fx.inductor_metrics_log  # Inductor counts only if this logger is enabled
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with config.patch(force_disable_caches=True):  # cached kernels are not counted
        outputs = _outputs(torch.compile(function)(*inputs))
        forward = metrics.num_bytes_accessed
        torch.autograd.grad(outputs, inputs, [torch.ones_like(output) for output in outputs])
    return forward, metrics.num_bytes_accessed - forward


def saved_bytes(function: Callable[..., Any], inputs: list[Tensor]) -> int:
    """Return the bytes that a forward saves for backward besides its inputs, shared memory counted once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = function(*inputs)  # alive until the sum, so that no address is reused
        total = sum(kept.values())
    del outputs
    return total


def _outputs(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
