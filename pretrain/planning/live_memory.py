"""Bytes of tensors that are alive: allocations of torch's operations, added up, and subtracted when torch frees them.

Works on every device, the meta device included, where nothing is computed. Temporary memory inside an operation is not
seen. Source of the idea: torch.distributed._tools.mem_tracker, which also wraps modules and optimizers.
"""

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


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
