"""Float32 weights of a checkpoint, or their moving average, of any kind of run with an encoder and of any world size,
without a GPU and without holding them all at once."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from model.config import DualHeads, Heads, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayTransformer
from model.networks import Network, build_network
from model.parameter_counts import parameter_shapes
from model.stacked_vectors import NOTHING_STACKED, StackedRows, stacked_rows
from model.weight_checks import check_weight
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.partitions import CHUNK_BYTES, WEIGHT, Partitions, saved_parameters, unstacked
from pretrain.checkpoints.reader import Checkpoint, latest_checkpoint, read_checkpoint
from pretrain.config.contrast import ContrastConfig
from pretrain.config.kinds import ENCODER_RUNS
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import EncoderConfigT, EncoderRunConfig, WeightKind
from pretrain.engine.weight_average import AVERAGE

ENCODER = "encoder."
"""Prefix of the encoder's parameters in the network of every kind of run."""


@overload
def find_checkpoint(source: Path) -> Checkpoint[EncoderRunConfig]: ...


@overload
def find_checkpoint(source: Path, kind: type[EncoderConfigT]) -> Checkpoint[EncoderConfigT]: ...


def find_checkpoint(source: Path, kind: Any = None) -> Any:
    """Return the newest checkpoint of a run's folder, the checkpoint whose folder is given, or that which
    RUN/checkpoints/best names.

    kind: the config of which it must be; None: any of ENCODER_RUNS, as the checkpoint's manifest has it. Raises
    ValueError if it is neither, or does not hold the network that its config describes.
    """
    kinds = ENCODER_RUNS if kind is None else (kind,)
    source = resolve_best(source)
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; give a run folder or a checkpoint folder")
    if (source / "checkpoints").is_dir():
        checkpoint = latest_checkpoint(source, *kinds)
        if checkpoint is None:
            raise ValueError(f"run {source} has no complete checkpoint yet")
    else:
        checkpoint = read_checkpoint(source, *kinds)
    _check_network(checkpoint)
    return checkpoint


def checkpoint_weights(
    checkpoint: Checkpoint[Any],
    chunk_bytes: int = CHUNK_BYTES,
    weights: WeightKind = "raw",
    order: Sequence[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers and weights of a verified checkpoint one by one, with their names in state dicts.

    weights: raw, as trained, or ema, their moving average; order: of the parameters' names, None for that of the files.
    Raises ValueError if its files do not hold them.
    """
    config = checkpoint.config
    rows = _rows_of(config) if isinstance(config, EncoderRunConfig) else NOTHING_STACKED
    check_has_weights(checkpoint, weights)
    return saved_weights(checkpoint.folder, rows, chunk_bytes, weights, order)


def saved_weights(
    folder: Path,
    rows: StackedRows,
    chunk_bytes: int = CHUNK_BYTES,
    weights: WeightKind = "raw",
    order: Sequence[str] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the same from the checkpoint's folder. rows: of the network's stacked parameters."""
    kind = WEIGHT if weights == "raw" else AVERAGE
    for name, buffer in Partitions(folder, rows).buffers.items():
        yield name, buffer.clone()
    for name, (weight,) in saved_parameters(folder, rows, (kind,), chunk_bytes, order):
        yield name, weight


def parameter_names(checkpoint: Checkpoint[EncoderRunConfig]) -> list[str]:
    """Return the names of the parameters in state dicts, in the order of the files."""
    return list(Partitions(checkpoint.folder, _rows_of(checkpoint.config)).places)


def check_has_weights(checkpoint: Checkpoint[Any], weights: WeightKind) -> None:
    """Raise ValueError if a checkpoint does not have the weights of that kind."""
    if weights == "ema" and not Partitions(checkpoint.folder, NOTHING_STACKED).has_average:
        raise ValueError(
            f"{checkpoint.folder} has no moving average of the weights, which optimizer.ema_decay keeps; take the raw "
            "ones"
        )


@overload
def model_of(config: MultiwayConfig, weights: Iterable[tuple[str, Tensor]], heads: None = None) -> MaskedDataModel: ...


@overload
def model_of(config: MultiwayConfig, weights: Iterable[tuple[str, Tensor]], heads: DualHeads) -> DualEncoder: ...


@overload
def model_of(config: MultiwayConfig, weights: Iterable[tuple[str, Tensor]], heads: Heads | None) -> Network: ...


def model_of(config: MultiwayConfig, weights: Iterable[tuple[str, Tensor]], heads: Heads | None = None) -> Network:
    """Return a network in evaluation mode whose matrices are the given tensors themselves, not copies.

    heads: as for `build_network`.
    """
    with torch.device("meta"):
        model = build_network(config, heads)
    model.load_state_dict(dict(weights), assign=True)
    return model.requires_grad_(True).eval()


@overload
def load_model(checkpoint: Checkpoint[PretrainConfig], weights: WeightKind = "raw") -> MaskedDataModel: ...


@overload
def load_model(checkpoint: Checkpoint[ContrastConfig], weights: WeightKind = "raw") -> DualEncoder: ...


def load_model(checkpoint: Checkpoint[Any], weights: WeightKind = "raw") -> Network:
    """Return the network of a verified checkpoint of any of ENCODER_RUNS, in evaluation mode on the CPU.

    Raises ValueError if a weight is not finite, or if the checkpoint does not have weights of that kind.
    """
    return model_of(checkpoint.config.model, _finite_weights(checkpoint, weights), checkpoint.config.heads)


def encoder_of(config: MultiwayConfig, weights: Iterable[tuple[str, Tensor]]) -> MultiwayTransformer:
    """Return the encoder of a network in evaluation mode; heads, which not every kind of run has, are ignored."""
    own = {name.removeprefix(ENCODER): tensor for name, tensor in weights if name.startswith(ENCODER)}
    with torch.device("meta"):
        encoder = MultiwayTransformer(config, has_final_norm=any(name.startswith("norm.") for name in own))
    encoder.load_state_dict(own, assign=True)
    return encoder.eval()


def load_encoder(checkpoint: Checkpoint[EncoderConfigT], weights: WeightKind = "raw") -> MultiwayTransformer:
    """Return the encoder of a verified checkpoint of any kind of run, in evaluation mode on the CPU.

    Raises ValueError if a weight is not finite, or if the checkpoint does not have weights of that kind.
    """
    return encoder_of(checkpoint.config.model, _finite_weights(checkpoint, weights)).requires_grad_(True)


def _finite_weights(checkpoint: Checkpoint[Any], weights: WeightKind) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in checkpoint_weights(checkpoint, weights=weights):
        check_weight(checkpoint.folder, name, tensor, tensor.shape)
        yield name, tensor


def _check_network(checkpoint: Checkpoint[EncoderConfigT]) -> None:
    """Raise ValueError if the files hold other parameters than the config says, before a network is built by it.

    The networks of pretraining, and of kinds that name their heads, are compared as a whole. Another kind of run knows
    itself what lies beside its encoder.
    """
    config, partitions = checkpoint.config.model, Partitions(checkpoint.folder, NOTHING_STACKED)
    wrong = f"{checkpoint.folder} does not hold the network of its config.json; give another checkpoint"
    if config.depth > len(partitions.places):  # a depth that the files cannot hold would take minutes to build
        raise ValueError(wrong)
    is_whole = isinstance(checkpoint.config, PretrainConfig) or checkpoint.config.heads is not None
    places = unstacked(partitions.places, _rows_of(checkpoint.config))
    found = {name: place.shape for name, place in places.items() if is_whole or name.startswith(ENCODER)}
    buffers = [name for name in partitions.buffers if is_whole or name.startswith(ENCODER)]  # neither has any
    shapes = parameter_shapes(config, checkpoint.config.heads)
    expected = {name: shape for name, shape in shapes.items() if is_whole or name.startswith(ENCODER)}
    if buffers or found != expected:
        raise ValueError(wrong)


def _rows_of(config: EncoderRunConfig) -> StackedRows:
    """Return the rows of the stacked parameters in the network of a run with an encoder."""
    with torch.device("meta"):
        return stacked_rows(build_network(config.model, config.heads))
