"""Copies between host and device that nobody waits for: the next batch goes ahead, a step's figures come after it."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from data_pipeline.loading.batch import StepBatch


def batches_ahead(batches: Iterable[StepBatch], device: torch.device) -> Iterator[StepBatch]:
    """The batches, on the device. Each is read, and on a GPU copied on a stream of its own, before the step that goes
    before it computes; from pinned memory the copy takes no time of that step."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    ahead: StepBatch | None = None
    for batch in batches:  # asked for no more after one that failed, so that its sentence comes at once
        with torch.cuda.stream(stream):
            copied = batch.to(device)
        if ahead is not None:
            yield ahead
        if stream is not None:
            _hand_over(copied, stream)
        ahead = copied
        if batch.failure:
            break
    if ahead is not None:
        yield ahead


def _hand_over(batch: StepBatch, stream: torch.cuda.Stream) -> None:
    """From the stream that copied to the one that computes, which waits for it; the host does not."""
    computing = torch.cuda.current_stream()
    computing.wait_stream(stream)
    for tensor in batch.tensors().values():
        tensor.record_stream(computing)  # its memory is not used again before that stream is done with it


class DeferredMetrics:
    """A step's log record whose figures are still on the device, or on the way."""

    def __init__(self, record: dict[str, Any]):
        """record: JSON values, dicts of them, and tensors of one element."""
        self._record = record
        tensors = list(_tensors(record))
        # with offloaded optimizer state DeepSpeed's gradient norm is on the CPU
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
        """With numbers for tensors. Waits for the step whose record it is, not for what was launched since."""
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
    """Its tensors replaced, in the order of `_tensors`."""
    return {
        name: _filled(value, values)
        if isinstance(value, dict)
        else next(values)
        if isinstance(value, Tensor)
        else value
        for name, value in record.items()
    }
