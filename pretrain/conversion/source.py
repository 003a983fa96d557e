"""Weights to convert: a run's, Microsoft's, or a folder of ours; and changes of image size and vocabulary."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.config import MultiwayConfig
from model.embeddings import interpolate_positions
from model.pretrained import WEIGHTS_NAME, load_pretrained, read_config
from model.weight_checks import check_weight
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.weights import checkpoint_weights
from pretrain.config.run_config import WeightKind, config_to_json
from pretrain.conversion.model_card import read_card
from pretrain.conversion.soup import averaged, find_checkpoints
from pretrain.conversion.target import CARD_NAME
from pretrain.evaluation.records import figures_at
from pretrain.formats.beit3 import decoupled_weights
from pretrain.formats.beit3_contents import config_of, missing_parts, task_heads
from pretrain.formats.beit3_file import load_beit3, tokenizer_sha256
from pretrain.formats.vocabulary import (
    EXPORTED_NAME,
    MICROSOFTS_NAME,
    WORD_ROWS,
    Vocabulary,
    fingerprint_in,
    read_vocabulary,
    tokenizer_beside,
)

Weights = Callable[[], Iterator[tuple[str, Tensor]]]


@dataclass(frozen=True)
class Source:
    """Weights to convert."""

    origin: str
    """Name of the source, for messages."""
    config: MultiwayConfig
    weights: Weights
    """Function that yields each parameter of a MaskedDataModel; can be called again."""
    vocabulary: Vocabulary | None
    provenance: dict[str, Any]
    """Entries of the card that say where the weights come from."""
    notes: tuple[str, ...] = ()
    """Notes for the user, printed by the command."""


def checkpoint_source(paths: Sequence[Path], weights: WeightKind = "raw") -> Source:
    """Open the newest checkpoint of a run, or a checkpoint folder; of several, the mean of their weights.

    weights: raw, as trained, or ema, their moving average. Raises ValueError if a path is neither, a checkpoint does
    not have these weights, or they cannot be averaged.
    """
    paths = [resolve_best(path) for path in paths]
    for path in paths:
        if path.is_file():
            raise ValueError(f"{path} is a file, not a run or a checkpoint folder; Microsoft's files need --from beit3")
    checkpoints = find_checkpoints(paths, weights)
    checkpoint, *others = checkpoints
    names = [f"{each.folder.parents[1].name}/{each.folder.name}" for each in checkpoints]
    origin = ", ".join(f"step {each.step} in {each.folder}" for each in checkpoints)
    kind = "the moving average of the weights at " if weights == "ema" else ""
    return Source(
        origin=f"{'the mean of ' if others else ''}{kind}{origin}",
        config=checkpoint.config.model,
        weights=lambda: averaged(checkpoints, weights) if others else checkpoint_weights(checkpoint, weights=weights),
        vocabulary=read_vocabulary(checkpoint.text_tokenizer) if checkpoint.text_tokenizer.is_file() else None,
        provenance={
            "checkpoint": checkpoint.folder.name,
            "step": checkpoint.step,
            "weights": weights,
            "average_of": names if others else [],
            "data_fingerprints": checkpoint.data_fingerprints,
            "figures": {} if others else figures_at(checkpoint.folder.parents[1], checkpoint.step, weights),
            "config": json.loads(config_to_json(checkpoint.config)),
        },
    )


def safetensors_source(folder: Path) -> Source:
    """Open a folder that --to safetensors wrote. Raises ValueError if it is not one."""
    config = read_config(folder)
    card = folder / CARD_NAME
    path = tokenizer_beside(folder, fingerprint_in(folder / WEIGHTS_NAME))
    return Source(
        origin=str(folder),
        config=config,
        weights=lambda: iter(load_pretrained(folder).state_dict().items()),
        vocabulary=None if path is None else read_vocabulary(path),
        provenance={"source": folder.name, "source_card": read_card(card) if card.is_file() else {}},
        notes=() if path is not None else (_no_tokenizer(folder),),
    )


def beit3_source(path: Path, num_heads: int | None, new_heads: bool, num_visual_tokens: int | None) -> Source:
    """Open a file of Microsoft's, or one that --to beit3 wrote. Raises ValueError if it is neither.

    num_heads: attention heads, if neither sizes nor card determine them; new_heads: initialize the parts that the file
    lacks, the masked-image head for num_visual_tokens codes.
    """
    entries = load_beit3(path, is_mapped=True)  # mapped: names and shapes are enough here
    card = path.with_suffix(".json")
    written_as = read_card(card).get("model", {}) if card.is_file() else {}
    heads = _agreed_heads(card, _number(card, written_as, "num_heads"), num_heads)
    absent, left_out = missing_parts(entries), task_heads(entries)
    if num_visual_tokens is not None and "mim_head" not in absent:
        raise ValueError(f"{path} has a masked-image head; leave out --num-visual-tokens")
    if new_heads and not absent:
        raise ValueError(f"{path} lacks no head; leave out --new-heads")
    config = config_of(
        entries,
        heads,
        _number(card, written_as, "max_text_length"),
        num_visual_tokens or MultiwayConfig.num_visual_tokens,
        path,
    )
    fingerprint = tokenizer_sha256(path)
    tokenizer = tokenizer_beside(path.parent, fingerprint, is_microsofts=fingerprint is None and not written_as)
    notes = [
        f"initialized anew, as the file has none: {', '.join(absent)}" if absent else "",
        f"left out, as only its task uses them: {', '.join(left_out)}" if left_out else "",
        _no_tokenizer(path.parent) if tokenizer is None else "",
    ]
    return Source(
        origin=str(path),
        config=config,
        weights=lambda: decoupled_weights(load_beit3(path), config, new_heads, path),
        vocabulary=None if tokenizer is None else read_vocabulary(tokenizer),
        provenance={"source": path.name, "new_heads": list(absent), "left_out": left_out},
        notes=tuple(note for note in notes if note),
    )


def resized(source: Source, image_size: int) -> Source:
    """Return the same weights for images of another size. Raises ValueError if patches do not divide it."""
    config = replace(source.config, image_size=image_size)

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            if name == "encoder.vision_embed.pos_embed":
                tensor = interpolate_positions(tensor, (config.grid_size, config.grid_size))
            yield name, tensor

    return replace(source, config=config, weights=weights, provenance={**source.provenance, "image_size": image_size})


def trimmed(source: Source) -> Source:
    """Return the same weights without the rows that no id of the text tokenizer reaches.

    Raises ValueError if there is no tokenizer, or if it has more ids than the model has rows.
    """
    if source.vocabulary is None:
        raise ValueError(f"--trim-vocab needs the text tokenizer, and none lies beside {source.origin}")
    num_ids = source.vocabulary.num_ids
    if num_ids > source.config.vocab_size:
        raise ValueError(
            f"{source.vocabulary.path} has {num_ids} ids, more than the {source.config.vocab_size} rows of words in "
            f"{source.origin}: it is the text tokenizer of other weights"
        )

    def weights() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in source.weights():
            yield name, tensor[:num_ids].clone() if name.startswith(WORD_ROWS) else tensor

    provenance = {**source.provenance, "vocab_size_before": source.config.vocab_size}
    return replace(source, config=replace(source.config, vocab_size=num_ids), weights=weights, provenance=provenance)


def readable(source: Source) -> Source:
    """Return the same weights; reading them raises ValueError, naming the source, on failure and for NaN or infinity.

    So any OSError during conversion comes from writing.
    """

    def weights() -> Iterator[tuple[str, Tensor]]:
        try:
            for name, tensor in source.weights():
                check_weight(source.origin, name, tensor, tensor.shape, (tensor.dtype,))
                yield name, tensor
        except OSError as error:
            raise ValueError(f"{source.origin} cannot be read ({error.strerror or error})") from error

    return replace(source, weights=weights)


def _number(card: Path, values: dict[str, Any], name: str) -> int | None:
    """Return a size in a card, None if it is not there. Raises ValueError if it is not a number."""
    value = values.get(name)
    if value is None or (type(value) is int and value > 0):
        return value
    raise ValueError(f"{card} has {name} {value!r}, not a number; remove the card and give --num-heads instead")


def _agreed_heads(card: Path, found: int | None, given: int | None) -> int | None:
    """Return the number of heads if it is known. Raises ValueError if the card beside a file and --num-heads differ."""
    if None not in (found, given) and found != given:
        raise ValueError(f"{card} has {found} heads, --num-heads is {given}; leave it out")
    return found or given


def _no_tokenizer(folder: Path) -> str:
    return (
        f"no text tokenizer ({EXPORTED_NAME} or Microsoft's {MICROSOFTS_NAME}) lies in {folder}, so none is written: "
        "put the one that the weights were trained with into that folder"
    )
