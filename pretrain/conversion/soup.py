"""The mean of the weights of several checkpoints: a "model soup", in which every checkpoint counts alike.

Source: Wortsman et al., "Model soups" (arXiv 2203.05482), the uniform soup; of checkpoints of one run, Izmailov et al.,
"Averaging Weights Leads to Wider Optima" (arXiv 1803.05407).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.files.hashing import file_sha256
from pretrain.checkpoints.reader import Checkpoint
from pretrain.checkpoints.weights import (
    check_has_weights,
    checkpoint_weights,
    find_checkpoint,
    parameter_names,
)
from pretrain.config.run_config import WeightKind

NOT_OF_THE_NETWORK = ("drop_path_rate", "init_std", "embed_init_std")
"""Settings of a network that its weights do not depend on after training."""


def find_checkpoints(sources: Sequence[Path], weights: WeightKind) -> list[Checkpoint[Any]]:
    """Return the checkpoints of a soup: the newest of each run, and each checkpoint folder that is given.

    Raises ValueError unless all are different ones, of one network with one text tokenizer, and have those weights.
    """
    found = [find_checkpoint(source) for source in sources]
    first, seen = found[0], set()
    for checkpoint in found:
        folder = checkpoint.folder.resolve()
        if folder in seen:
            raise ValueError(f"{checkpoint.folder} is given twice; leave one of them out")
        seen.add(folder)
        if differences := _differences(first, checkpoint):
            raise ValueError(
                f"{checkpoint.folder} and {first.folder} cannot be averaged: {'; '.join(differences)}; give "
                "checkpoints of one network and text tokenizer"
            )
        check_has_weights(checkpoint, weights)
    return found


def averaged(checkpoints: Sequence[Checkpoint[Any]], weights: WeightKind) -> Iterator[tuple[str, Tensor]]:
    """Yield the mean of each weight of some checkpoints in float32, summed in float64, with its name in state dicts.

    Raises ValueError if their files do not hold the weights.
    """
    # files of other topologies hold the parameters in another order; networks of encoder runs have no buffers
    order = parameter_names(checkpoints[0])
    for parts in zip(*(checkpoint_weights(each, weights=weights, order=order) for each in checkpoints), strict=True):
        (name, first), *others = parts
        total = first.double()
        for _, tensor in others:
            total += tensor
        yield name, (total / len(checkpoints)).float()


def _differences(one: Checkpoint[Any], other: Checkpoint[Any]) -> list[str]:
    """Return what keeps the weights of two checkpoints from being averaged, in words."""
    if type(one.config) is not type(other.config):
        return [f"one is a checkpoint of {other.config.KIND}, the other of {one.config.KIND}"]
    found, expected = asdict(other.config.model), asdict(one.config.model)
    differences = [
        f"model.{name} is {found[name]} and {expected[name]}"
        for name in expected
        if name not in NOT_OF_THE_NETWORK and found[name] != expected[name]
    ]
    if one.config.heads != other.config.heads:
        differences.append("one has heads that the other has not (loss, masked_data_weight or the task differ)")
    if _tokenizer_of(one) != _tokenizer_of(other):
        differences.append("their text tokenizers differ")
    return differences


def _tokenizer_of(checkpoint: Checkpoint[Any]) -> str | None:
    path = checkpoint.text_tokenizer
    return file_sha256(path) if path.is_file() else None
