"""A checkpoint's float32 weights, whatever its world size, without a GPU and without holding them all."""

import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from model.config import MultiwayConfig
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoint import Checkpoint, latest_checkpoint, read_checkpoint
from pretrain.config import PretrainConfig

CHUNK_BYTES = 1 << 28


def find_checkpoint(source: Path) -> Checkpoint[PretrainConfig]:
    """The newest checkpoint of a pretraining run's folder, or the checkpoint folder itself.

    Raises ValueError where it is neither.
    """
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; give a run folder or a checkpoint folder")
    if (source / "checkpoints").is_dir():
        checkpoint = latest_checkpoint(source, PretrainConfig)
        if checkpoint is None:
            raise ValueError(f"run {source} has no complete checkpoint yet")
        return checkpoint
    return read_checkpoint(source, PretrainConfig)


def checkpoint_weights(folder: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[str, Tensor]]:
    """The weights and buffers of a verified checkpoint, one after the other, by their names in the model.

    The files are mapped anew after every `chunk_bytes`, so that pages already read do not add up.
    """
    num_done, num_all = 0, 1
    while num_done < num_all:
        lazy = list(_map_weights(folder).items())
        num_all, num_bytes = len(lazy), 0
        while num_done < num_all and num_bytes < chunk_bytes:
            name, partitions = lazy[num_done]
            tensor = partitions.contiguous()  # a copy, gathered from all ranks
            num_done += 1
            num_bytes += tensor.nbytes
            yield name, tensor
            del tensor
        del lazy, partitions  # before the next mapping, not after it


def model_of(config: MultiwayConfig, weights: Iterator[tuple[str, Tensor]]) -> MaskedDataModel:
    """A network in evaluation mode that holds the given tensors themselves, not copies."""
    with torch.device("meta"):
        model = MaskedDataModel(config)
    model.load_state_dict(dict(weights), assign=True)
    return model.requires_grad_(True).eval()


def load_model(checkpoint: Checkpoint[PretrainConfig]) -> MaskedDataModel:
    """The network of a verified checkpoint, in evaluation mode on the CPU."""
    return model_of(checkpoint.config.model, checkpoint_weights(checkpoint.folder))


def _map_weights(folder: Path) -> Mapping[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells its progress
        lazy: Mapping[str, Any] = get_fp32_state_dict_from_zero_checkpoint(
            str(folder.parent), tag=folder.name, lazy_mode=True
        )
    return lazy
