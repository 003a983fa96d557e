"""The interface between the loop and what is trained.

A `Job` supplies the data, the network and, for each optimizer step, a `Step`: inputs and losses of its micro-steps, and
updates that follow the optimizer's. run/start.py builds a run from a job, run/accumulate.py runs its steps, run/loop.py
does the rest. A new training is a new job, in a file of its own beside this one, and a command as short as
pretrain/train.py.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, Self

import deepspeed
import torch
from torch import Tensor, nn

from data_pipeline.loading.config import DataConfig
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.shard_dataset import ShardDataset
from data_pipeline.samples.sample import BadSample
from pretrain.config.run_config import ConfigT


class Batch(Protocol):
    """Fields of a batch that the loop reads. All others are the job's own, from its dataset to its step."""

    step: int
    keys: list[str]
    """Sample keys of this rank, kind after kind in the order of `samples_per_step`."""
    bad_samples: list[BadSample]
    """Samples that were skipped on the way to this batch."""
    failure: str
    """Why the batch could not be read; empty if it was."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that are tensors."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device, without waiting for the copy."""


@dataclass(frozen=True)
class StepWork:
    """Work of one step, of one rank or of all."""

    num_tokens: int
    flops: int
    """Floating point operations of forward and backward, see model/flops.py."""


@dataclass(frozen=True)
class StepLoss:
    """Losses of the global batch, the same on every rank; tensors of one element, still on the device."""

    total: Tensor
    parts: dict[str, Tensor]
    """Logged under `losses`, by name."""


class Step(ABC):
    """One optimizer step of a job on this rank's part of the global batch.

    accumulate() calls `forward` for each micro-step, each time followed by the backward of its loss; `reduce` before
    the last backward; `after_update` at the end. Every rank makes the same calls in the same order, so they may hold
    collectives. None of them may read from the device: the host launches the next micro-step while the device still
    computes this one.
    """

    micro_steps: Sequence[Any]
    """Inputs of each forward, on the device."""

    @abstractmethod
    def forward(self, engine: deepspeed.DeepSpeedEngine, micro_step: Any) -> tuple[Tensor, Tensor]:
        """Return the loss to differentiate, a scalar, and detached metrics of this micro-step, any shape.

        Parameters may be used inside `engine(...)` only: outside of it ZeRO-3 has not gathered them. DeepSpeed divides
        gradients by micro-steps and ranks, as a mean over equal parts needs; a loss that is divided by counts of the
        global batch already is multiplied by both (`MaskedStep` in pretraining.py).
        """

    @abstractmethod
    def reduce(self, metrics: list[Tensor]) -> StepLoss:
        """Return the losses of the global batch from the metrics of this rank's micro-steps; sums over all ranks."""

    def after_update(self, engine: deepspeed.DeepSpeedEngine, is_applied: bool) -> dict[str, Any]:
        """Update state that no gradient updates, after the optimizer step. Returns further fields of the log record.

        is_applied: false if the step was skipped because loss or gradient was not finite, or the loss a spike.
        """
        return {}


class Job(ABC, Generic[ConfigT]):
    """A kind of training.

    Every rank calls every method in the same order, unless its docstring says "main rank". Methods that raise
    ValueError or OSError run under `on_every_rank`, which raises one rank's error on all, and hold no collectives.
    """

    leaf_modules: ClassVar[tuple[type[nn.Module], ...]]
    """Modules that ZeRO-3 gathers as one piece, with all that lies below them."""
    undecayed: ClassVar[tuple[str, ...]]
    """Suffixes of names of parameters without weight decay; those of at most one dimension never have any."""
    bfloat16_weights: ClassVar[bool]
    """Whether precision bfloat16 holds the weights in bfloat16 too, or only computes matrix products in it."""
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})
    """Lowest and highest value of parameters, by name: see pretrain/run/parameter_bounds.py."""
    progress_fields: ClassVar[tuple[str, ...]] = ("losses",)
    """Fields of a log record, each a dict of figures, that the progress line prints."""

    def __init__(self, config: ConfigT, device: torch.device):
        self.config = config
        self.device = device

    @abstractmethod
    def prepare(self, rank: int, world_size: int) -> ShardDataset[Any, Any]:
        """Open the data and all that is not trained, before the engine is built.

        Finds every mistake that can be found now, so that none costs the minutes that an engine takes. Writes nothing:
        a dry run calls it as well, for ranks that are not there. Raises ValueError or OSError.
        """

    def prepare_files(self) -> None:
        """Make the folders of files that the run writes outside of its run folder. Main rank, after `prepare`.

        Raises OSError if they cannot be written.
        """

    @abstractmethod
    def files(self, config: ConfigT) -> dict[str, Path | None]:
        """Return the non-shard files that define a run of that config, by name; None: it has no such file.

        A resumed run compares their contents with those of its start.
        """

    @abstractmethod
    def build_model(self, is_new: bool) -> nn.Module:
        """Return the network in float32 with initial weights, the same on every rank; DeepSpeed moves and casts it.

        is_new: false if a checkpoint replaces the weights. Raises ValueError if given weights do not fit.
        """

    @abstractmethod
    def start_step(self, engine: deepspeed.DeepSpeedEngine, batch: Any) -> Step:
        """Return the step that trains on this rank's part of a global batch.

        May run the network: without gradients, as k-means on the first features does, and last of all with them, if the
        step's first `forward` hands on what that run gave. accumulate() does the rest.
        """

    def lr_scale(self, name: str) -> float:
        """Return the factor of the learning rate for a parameter, as layer-wise decay needs."""
        return 1.0

    def part_of(self, name: str) -> str:
        """Return the part of the network that a parameter counts to in the norms by part of the log."""
        return "all"

    def checkpoint_files(self) -> dict[str, bytes]:
        """Return files that a checkpoint holds besides DeepSpeed's and the config, by name. Raises OSError.

        Read once, when the run starts: the originals may move while it goes on.
        """
        return {}

    def describe(self) -> list[str]:
        """Return lines to print when the run starts, before those of the data. All ranks must return the same."""
        return []

    def work(self, batch: Any) -> StepWork | None:
        """Return the work of this rank's part of a step; None disables throughput logging."""
        return None

    def after_step(self, engine: deepspeed.DeepSpeedEngine, step: int) -> None:
        """Evaluate or monitor beside training. Called once a step is recorded, skipped or not."""

    def check_record(self, record: dict[str, Any]) -> None:
        """Warn if the figures of a step show a fault of the training, once they are on the host. Main rank."""

    def publish(self, checkpoint: Path) -> None:
        """Write files for users from a complete checkpoint, after it was loaded or saved. Main rank. Raises OSError."""


def open_dataset(config: ConfigT, image_size: int, rank: int, world_size: int) -> StepDataset:
    """Return the data of a run; image_size: side of its images in pixels. Raises ValueError if it is not sound."""
    assert isinstance(config.data, DataConfig)
    per_step, per_node = config.samples_per_step, ranks_per_node(world_size)
    return StepDataset(config.data, per_step, image_size, config.seed, rank, world_size, per_node)


def ranks_per_node(world_size: int) -> int:
    """Return the number of ranks that share a node, as the launcher says; without one all are on this one."""
    return int(os.environ.get("LOCAL_SIZE", world_size))
