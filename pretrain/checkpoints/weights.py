"""A checkpoint's float32 weights, whatever its world size, without a GPU and without holding them all."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from model.config import MultiwayConfig
from model.masked_data_model import MaskedDataModel
from model.parameter_counts import parameter_shapes
from model.weight_checks import check_weight
from pretrain.checkpoints.partitions import CHUNK_BYTES, WEIGHT, Partitions, saved_parameters
from pretrain.checkpoints.saver import Checkpoint, latest_checkpoint, read_checkpoint
from pretrain.config.pretraining import PretrainConfig


def find_checkpoint(source: Path) -> Checkpoint[PretrainConfig]:
    """The newest checkpoint of a pretraining run's folder, or the checkpoint folder itself.

    Raises ValueError where it is neither, or does not hold the network that its config describes.
    """
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; give a run folder or a checkpoint folder")
    if (source / "checkpoints").is_dir():
        checkpoint = latest_checkpoint(source, PretrainConfig)
        if checkpoint is None:
            raise ValueError(f"run {source} has no complete checkpoint yet")
    else:
        checkpoint = read_checkpoint(source, PretrainConfig)
    _check_network(checkpoint)
    return checkpoint


def checkpoint_weights(folder: Path, chunk_bytes: int = CHUNK_BYTES) -> Iterator[tuple[str, Tensor]]:
    """The buffers and weights of a verified checkpoint, one after the other, by their names in the model.

    Raises ValueError where its files do not hold them.
    """
    for name, buffer in Partitions(folder).buffers.items():
        yield name, buffer.clone()
    for name, (weight,) in saved_parameters(folder, (WEIGHT,), chunk_bytes):
        yield name, weight


def model_of(config: MultiwayConfig, weights: Iterator[tuple[str, Tensor]]) -> MaskedDataModel:
    """A network in evaluation mode that holds the given tensors themselves, not copies."""
    with torch.device("meta"):
        model = MaskedDataModel(config)
    model.load_state_dict(dict(weights), assign=True)
    return model.requires_grad_(True).eval()


def load_model(checkpoint: Checkpoint[PretrainConfig]) -> MaskedDataModel:
    """The network of a verified checkpoint, in evaluation mode on the CPU. Raises ValueError if it is not finite."""

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in checkpoint_weights(checkpoint.folder):
            check_weight(checkpoint.folder, name, tensor, tensor.shape)
            yield name, tensor

    return model_of(checkpoint.config.model, weights())


def _check_network(checkpoint: Checkpoint[PretrainConfig]) -> None:
    """Raises ValueError where the files hold other parameters than the config says, before a network is built by it."""
    config, partitions = checkpoint.config.model, Partitions(checkpoint.folder)
    found = {name: place.shape for name, place in partitions.places.items()}
    if partitions.buffers or config.depth > len(found) or found != parameter_shapes(config):  # it has no buffers
        raise ValueError(f"{checkpoint.folder} does not hold the network of its config.json; give another checkpoint")
