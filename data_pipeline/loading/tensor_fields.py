"""A batch as a dataclass some of whose fields are tensors, which move to a device together."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor


class TensorFields:
    """Base of the dataclasses that batches are."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors, by name."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device; from pinned memory the copy is not waited for."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory. PyTorch's DataLoader calls this."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{**self.__dict__, **{name: change(tensor) for name, tensor in self.tensors().items()}})
