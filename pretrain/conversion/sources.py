"""Sources of weights: our checkpoints, folders of safetensors, and Microsoft's files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_pipeline.loading.task_config import TaskDataConfig
from model.config import USES, DualHeads, Heads, MultiwayConfig, Use
from model.parameter_counts import parameter_shapes
from model.pretrained import WEIGHTS_NAME, load_network, read_config, read_heads
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.weights import checkpoint_weights
from pretrain.config.run_config import EncoderRunConfig, WeightKind, config_to_json
from pretrain.conversion.model_card import read_card
from pretrain.conversion.soup import averaged, find_checkpoints
from pretrain.conversion.source import Source, in_words
from pretrain.conversion.target import CARD_NAME
from pretrain.evaluation.records import figures_at
from pretrain.formats.beit3 import decoupled_weights
from pretrain.formats.beit3_contents import config_of, missing_parts, task_heads
from pretrain.formats.beit3_file import load_beit3, tokenizer_sha256
from pretrain.formats.beit3_tasks import heads_of
from pretrain.formats.beit3_tasks import in_words as heads_in_words
from pretrain.formats.labels import labels_beside
from pretrain.formats.preprocessing import (
    Preprocessing,
    default_preprocessing,
    read_preprocessing,
    task_preprocessing,
)
from pretrain.formats.vocabulary import (
    EXPORTED_NAME,
    MICROSOFTS_NAME,
    fingerprint_in,
    read_vocabulary,
    tokenizer_beside,
)

OF_RUN = (
    *("checkpoint", "step", "weights", "average_of", "data_fingerprints", "figures", "config"),
    *("image_size", "vocab_size_before"),
)
"""What a card tells of a run, and of the changes to its network."""


def checkpoint_source(paths: Sequence[Path], weights: WeightKind = "raw") -> Source:
    """Open the newest checkpoint of a run, or a checkpoint folder; of several, the mean of their weights.

    weights: raw, as trained, or ema, their moving average. Raises ValueError if a path is neither, a checkpoint does
    not have these weights, or they cannot be averaged.
    """
    paths = [resolve_best(path) for path in paths]
    for path in paths:
        if path.is_file():
            raise ValueError(f"{path} is a file, not a run or a checkpoint folder; Microsoft's files need --from beit3")
        if (path / WEIGHTS_NAME).is_file():
            raise ValueError(f"{path} is an export, not a run or a checkpoint folder; it needs --from safetensors")
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
        preprocessing=preprocessing_of_run(checkpoint.config),
        provenance={
            "checkpoint": checkpoint.folder.name,
            "step": checkpoint.step,
            "weights": weights,
            "average_of": names if others else [],
            "data_fingerprints": checkpoint.data_fingerprints,
            "figures": {} if others else figures_at(checkpoint.folder.parents[1], checkpoint.step, weights),
            "config": json.loads(config_to_json(checkpoint.config)),
        },
        heads=checkpoint.config.heads,
        labels=labels_beside(checkpoint.folder, checkpoint.config.heads),
    )


def preprocessing_of_run(config: EncoderRunConfig) -> Preprocessing:
    """Return how a run of ours makes inputs; pixels are normalised by `pretrain.jobs.visual_tokens.network_view`.

    The texts of a dual encoder are the captions of its pairs, those of a finetuned network the texts of its task.
    """
    data, size = config.data, config.model.image_size
    if isinstance(data, TaskDataConfig):
        return task_preprocessing(config.model, config.heads, data.text_length)
    text_length = data.caption_length if isinstance(config.heads, DualHeads) else data.text_length
    return Preprocessing(size, text_length=text_length, caption_length=data.caption_length)


def safetensors_source(folder: Path) -> Source:
    """Open a folder that --to safetensors wrote. Raises ValueError if it is not one."""
    config, heads = read_config(folder), read_heads(folder)
    card = read_card(folder / CARD_NAME) if (folder / CARD_NAME).is_file() else {}
    path = tokenizer_beside(folder, fingerprint_in(folder / WEIGHTS_NAME))
    known = card.get("exact_uses")  # cards of earlier versions have none
    uses = tuple(use for use in USES if isinstance(known, list) and use in known) or USES
    return Source(
        origin=str(folder),
        config=config,
        weights=lambda: iter(load_network(folder).state_dict().items()),
        vocabulary=None if path is None else read_vocabulary(path),
        preprocessing=read_preprocessing(folder, heads) or _earlier_preprocessing(config, heads, card),
        provenance=of_run(card) | {"source": folder.name, "source_card": card},
        heads=heads,
        labels=labels_beside(folder, heads),
        exact_uses=uses,
        notes=tuple(filter(None, (_one_role(uses), "" if path is not None else _no_tokenizer(folder)))),
    )


def beit3_source(path: Path, num_heads: int | None, new_heads: bool, num_visual_tokens: int | None) -> Source:
    """Open a file of Microsoft's, or one that --to beit3 wrote. Raises ValueError if it is neither.

    num_heads: attention heads, if neither sizes nor card determine them; new_heads: make a network for masked data
    modeling and initialize the parts of it that the file lacks, the masked-image head for num_visual_tokens codes.
    Without it the file must hold a whole network: for masked data modeling, a dual encoder, or one of a task.
    """
    entries = load_beit3(path, is_mapped=True)  # mapped: names and shapes are enough here
    card = path.with_suffix(".json")
    card_of_file = read_card(card) if card.is_file() else {}
    written_as = card_of_file.get("model", {})
    num_heads = _agreed_heads(card, _number(card, written_as, "num_heads"), num_heads)
    own_heads = heads_of(entries, path)
    heads = None if new_heads else own_heads
    absent = missing_parts(entries) if heads is None else {}
    if num_visual_tokens is not None and "mim_head" not in absent:
        raise ValueError(f"{path} has a masked-image head; leave out --num-visual-tokens")
    if new_heads and not absent:
        raise ValueError(f"{path} lacks no head; leave out --new-heads")
    config = config_of(
        entries,
        num_heads,
        _number(card, written_as, "max_text_length"),
        num_visual_tokens or MultiwayConfig.num_visual_tokens,
        path,
    )
    kept = parameter_shapes(config, heads)
    left_out = [name for name in task_heads(entries) if name not in kept]  # heads have the same names in both formats
    uses = exact_uses(card_of_file.get("role"), written_as) if written_as else USES
    used = {"image", "text"} if isinstance(heads, DualHeads) and not heads.masked_data else set(USES)
    fingerprint = tokenizer_sha256(path)
    tokenizer = tokenizer_beside(path.parent, fingerprint, is_microsofts=fingerprint is None and not written_as)
    notes = [
        f"initialized anew, as the file has none: {', '.join(absent)}" if absent else "",
        f"left out, as only its task uses them: {', '.join(left_out)}" if left_out else "",
        f"it is {heads_in_words(heads)}, and so is the result" if heads is not None else "",
        _one_role(uses),
        f"without --new-heads the result is {heads_in_words(own_heads)}, which keeps them"
        if new_heads and own_heads is not None and left_out
        else "",
        _no_tokenizer(path.parent) if tokenizer is None else "",
    ]
    return Source(
        origin=str(path),
        config=config,
        weights=lambda: decoupled_weights(load_beit3(path), config, new_heads, path, heads),
        vocabulary=None if tokenizer is None else read_vocabulary(tokenizer),
        preprocessing=(read_preprocessing(path.parent, own_heads) if written_as else None)
        or default_preprocessing(config, heads=heads),
        # the run's figures and settings are not those of one role of it, or of parts that are initialized anew; a dual
        # encoder alone has no pairs
        provenance=(of_run(card_of_file) if set(uses) >= used and not absent else {})
        | {"source": path.name, "new_heads": list(absent), "left_out": left_out},
        exact_uses=uses,
        heads=heads,
        labels=labels_beside(path.parent, heads),
        notes=tuple(filter(None, notes)),
    )


def of_run(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card of converted weights tells of their run, so that the next card tells it as well; {} if they
    are not from a run, or the card was damaged."""
    config, figures, averaged = card.get("config"), card.get("figures", {}), card.get("average_of", [])
    is_sound = (
        {"checkpoint", "step"} <= card.keys()
        and isinstance(config, dict)
        and isinstance(config.get("data"), dict)
        and "num_steps" in config
        and isinstance(figures, dict)
        and all(value is None or isinstance(value, int | float) for value in figures.values())
        and isinstance(averaged, list)
        and all(isinstance(name, str) for name in averaged)
    )
    return {name: card[name] for name in OF_RUN if name in card} if is_sound else {}


def exact_uses(role: object, written_as: Mapping[str, Any]) -> tuple[Use, ...]:
    """Return the uses that a file of --to beit3 is exact for, from its card: its role, and the sizes of its network."""
    if not written_as.get("num_vl_layers"):
        return USES
    return ("pair",) if role == "fusion" else ("image", "text")


def _earlier_preprocessing(config: MultiwayConfig, heads: Heads | None, card: Mapping[str, Any]) -> Preprocessing:
    """Return that of a folder which an earlier version wrote, without preprocessing.json: its lengths are in the card
    if a run was converted. Raises ValueError if they are not valid."""
    run = card.get("config")
    data = run.get("data") if isinstance(run, dict) else None
    known = data if isinstance(data, dict) else {}
    lengths = {name: known[name] for name in ("text_length", "caption_length") if name in known}
    return replace(default_preprocessing(config, heads=heads), **lengths)


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


def _one_role(uses: tuple[Use, ...]) -> str:
    """Return a note on weights that are not exact for every use, "" for others."""
    if uses == USES:
        return ""
    return (
        f"it holds one role of vision-language experts, and so does the result: exact for {in_words(uses)} only, wrong "
        "for everything else"
    )


def _no_tokenizer(folder: Path) -> str:
    return (
        f"no text tokenizer ({EXPORTED_NAME} or Microsoft's {MICROSOFTS_NAME}) lies in {folder}, so none is written: "
        "put the one that the weights were trained with into that folder"
    )
