"""Copies between host and device that no step waits for.

Reading a value from a GPU (`.item()`) waits for everything launched before it, and the GPU then idles until the host
has launched more. So batches are copied one step ahead, and figures of a step are read one step later.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from pretrain.jobs.job import Batch

BatchT = TypeVar("BatchT", bound=Batch)


def batches_ahead(batches: Iterable[BatchT], device: torch.device) -> Iterator[BatchT]:
    """Yield the batches on the device, each read and copied before the step before it is yielded.

    On a GPU the copy runs on its own stream; from pinned memory it overlaps with that step's computation.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    ahead: BatchT | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            copied = batch.to(device)
        if ahead is not None:
            yield ahead
        if stream is not None:
            _hand_over(copied, stream)
        ahead = copied
        if batch.failure:  # reported by this step's agreement; to read on might wait for a dead worker
            break
    if ahead is not None:
        yield ahead


def _hand_over(batch: Batch, stream: torch.cuda.Stream) -> None:
    """Make the computing stream, not the host, wait for the stream that copied."""
    computing = torch.cuda.current_stream()
    computing.wait_stream(stream)
    for tensor in batch.tensors().values():
        tensor.record_stream(computing)  # else the allocator could reuse the memory while that stream still reads


class DeferredMetrics:
    """A log record whose figures are still on the device, or on their way to the host."""

    def __init__(self, record: dict[str, Any]):
        """record: JSON values, dicts of them, and tensors of one element."""
        self._record = record
        tensors = list(_tensors(record))
        # with offloaded optimizer state DeepSpeed's gradient norm is on the CPU, the losses on the GPU
        device = next((tensor.device for tensor in tensors if tensor.is_cuda), torch.device("cpu"))
        values = [tensor.detach().to(device, torch.float64).reshape(()) for tensor in tensors]
        self._values = torch.stack(values) if values else torch.empty(0)
        self._is_there: torch.cuda.Event | None = None
        if self._values.is_cuda:
            host = torch.empty(self._values.shape, dtype=self._values.dtype, pin_memory=True)
            self._values = host.copy_(self._values, non_blocking=True)
            self._is_there = torch.cuda.Event()
            self._is_there.record()

    def read(self) -> dict[str, Any]:
        """Return the record with numbers for tensors. Waits for its own step, not for later ones."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return _filled(self._record, iter(self._values.tolist()))


def _tensors(record: dict[str, Any]) -> Iterator[Tensor]:
    for value in record.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif isinstance(value, Tensor):
            yield value


def _filled(record: dict[str, Any], values: Iterator[float]) -> dict[str, Any]:
    """Return the record with its tensors replaced by values, in the order of `_tensors`."""
    return {
        name: _filled(value, values)
        if isinstance(value, dict)
        else next(values)
        if isinstance(value, Tensor)
        else value
        for name, value in record.items()
    }
