"""The interface through which a plan sees a kind of run: its network, a micro-step of it, the operations of a step.

Everything else, from ZeRO's memory to the price, is the same for all kinds. A kind of run that can be planned is a
subclass of `PlannedKind` in a file beside this one, and an entry in kinds.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic

import torch
from torch import Tensor, nn

from model.config import KernelChoice, Use
from pretrain.config.run_config import EncoderConfigT


@dataclass(frozen=True)
class MicroBatch:
    """Samples of each kind in one forward and backward of a rank."""

    images: int
    pairs: int
    texts: int
    task_samples: int = 0


class PlannedKind(ABC, Generic[EncoderConfigT]):
    """A kind of run, as a plan sees it. Networks and tensors are on the meta device: nothing is computed."""

    module: ClassVar[str]
    """Command that trains it."""
    evaluated_data: ClassVar[tuple[str, ...]] = ("images", "pairs", "texts", "labelled")
    """Kinds of held-out data that its evaluation can take, as EvaluationConfig names them."""

    def with_held_out_data(self, config: EncoderConfigT) -> EncoderConfigT:
        """Return the config with all held-out data that its evaluation can take."""
        folders: dict[str, Any] = {name: name for name in self.evaluated_data}
        return replace(config, evaluation=replace(config.evaluation, **folders, best=None))

    @abstractmethod
    def network(self, config: EncoderConfigT, kernels: KernelChoice) -> nn.Module:
        """Return the network that is trained, in the precision of the run."""

    @abstractmethod
    def micro_step(self, config: EncoderConfigT, batch: MicroBatch) -> Any:
        """Return the inputs of a micro-step, with the longest captions and texts."""

    @abstractmethod
    def loss(self, network: nn.Module, micro_step: Any) -> Tensor:
        """Return the loss of a micro-step, to call backward on."""

    def loss_of_the_batch(self, config: EncoderConfigT, batch: MicroBatch) -> Sequence[Tensor]:
        """Compute what a step computes once, between the forward and the backward of its first micro-step; return the
        tensors that stay for all micro-steps."""
        return ()

    def num_forwards_again(self, config: EncoderConfigT) -> int:
        """Return the number of forwards without gradients in a step, besides one forward for each micro-step."""
        return 0

    def gathered_bytes(self, config: EncoderConfigT) -> int:
        """Return the bytes, over all ranks, that a step gathers on every rank besides weights."""
        return 0

    @abstractmethod
    def batch_bytes(self, config: EncoderConfigT, batch: MicroBatch) -> int:
        """Return the bytes of the inputs of a step, which are made for all micro-steps before the first one begins:
        pixels as read, also those of the next batch, which is copied ahead, and the inputs made from them."""

    @abstractmethod
    def of_the_forward(self, config: EncoderConfigT) -> EncoderConfigT:
        """Return the config without the settings that a micro-step does not depend on, so that plans with different
        ones share a cache entry."""

    @abstractmethod
    def step_flops(self, config: EncoderConfigT) -> int:
        """Return the operations of the model in a step of the longest captions and texts, over all ranks."""

    @abstractmethod
    def uses(self, config: EncoderConfigT) -> dict[Use, int]:
        """Return the kinds of samples that the encoder sees, with the most text tokens of each."""

    @abstractmethod
    def evaluation_forwards(self, config: EncoderConfigT) -> Iterator[tuple[int, float]]:
        """Yield the number of samples, and the operations of a forward per sample, of each part of an evaluation."""

    def frozen_memory(self, config: EncoderConfigT, batch: MicroBatch, device: torch.device) -> tuple[int, int]:
        """Return the bytes of networks that are not trained, and their peak besides them."""
        return 0, 0
