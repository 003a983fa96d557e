"""Evaluate a run, a checkpoint or an exported folder with the figures that a run computes itself."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import Heads, TaskHead
from model.flash_attention import activate_flash_attention
from model.masked_data_model import MaskedDataModel
from model.pretrained import WEIGHTS_NAME, load_network, read_config, read_heads
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.fingerprints import file_fingerprint
from pretrain.checkpoints.weights import find_checkpoint, load_model
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.run_config import WeightKind, config_from_json
from pretrain.conversion.evaluated_contrast import evaluate_dual_encoder
from pretrain.conversion.evaluated_task import evaluate_finetuned
from pretrain.conversion.model_card import read_card
from pretrain.conversion.sources import beit3_source
from pretrain.conversion.target import CARD_NAME
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.launched import Launched, launched
from pretrain.evaluation.options import EvaluateOptions
from pretrain.evaluation.pretraining import PretrainingEvaluation
from pretrain.formats.vocabulary import fingerprint_in, tokenizer_beside
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.survival.console import warn


@dataclass(frozen=True)
class Evaluated:
    """A network, and what its evaluation needs to know of its run."""

    model: MaskedDataModel
    config: PretrainConfig
    text_tokenizer: Path
    visual_fingerprint: str | None
    """Fingerprint of the visual tokenizer whose codes it predicts."""
    origin: str
    """Where it is from, in words."""


def evaluate_source(options: EvaluateOptions) -> tuple[str, Figures]:
    """Return a line on what was evaluated, and its figures. All ranks of a launcher call it.

    Raises ValueError if the source, its tokenizers or held-out data cannot be used.
    """
    with launched() as found, torch.no_grad():
        heads = found.prepare(lambda: heads_in(options.source))
        if isinstance(heads, TaskHead):
            options.check_use("task")
            return evaluate_finetuned(options, found)
        # Microsoft's pretrained files have no settings of a run, which masked words need
        if heads is not None or resolve_best(options.source).is_file():
            if heads is not None:  # else it is none, which is refused in a moment
                options.check_use("contrast")
            return evaluate_dual_encoder(options, found)
        options.check_use("pretraining")
        return evaluate_pretrained(options, found)


def heads_in(source: Path) -> Heads | None:
    """Return the heads of the network in a source that `open_network` reads, None if it is one of masked data modeling.

    Raises ValueError if it is no such source.
    """
    source = resolve_best(source)
    if source.is_file():
        return beit3_source(source, num_heads=None, new_heads=False, num_visual_tokens=None).heads
    if (source / WEIGHTS_NAME).is_file():
        return read_heads(source)
    return find_checkpoint(source).config.heads


def evaluate_pretrained(options: EvaluateOptions, launched: Launched) -> tuple[str, Figures]:
    """Do so for a network of masked data modeling."""
    model, evaluation, subject = launched.prepare(
        lambda: prepare(options, launched.device, check_shards=launched.ranks.rank == 0)
    )
    if launched.ranks.rank == 0:
        for line in evaluation.skipped:
            warn(line)
    return subject, evaluation.figures(model, launched.ranks)


def prepare(
    options: EvaluateOptions, device: torch.device, check_shards: bool
) -> tuple[MaskedDataModel, PretrainingEvaluation, str]:
    """Return the network on its device, what is to be computed of it, and a line on both. Raises ValueError."""
    found = open_source(options.source, options.weights)
    settings = options.applied_to(found.config.evaluation)
    if not settings.has_data:
        raise ValueError(
            f"{options.source} was trained without an evaluation; give --images, --pairs, --texts or --labelled"
        )
    config = replace(found.config, evaluation=replace(settings, best=None))
    path = options.visual_tokenizer or config.visual_tokenizer
    visual_tokenizer = load_visual_tokenizer(path).to(device)
    if file_fingerprint(path) != found.visual_fingerprint:
        raise ValueError(f"{path} is not the visual tokenizer of the run; give that with --visual-tokenizer")
    activate_flash_attention(config.flash_attention, device)
    tokenizer = TextTokenizer(found.text_tokenizer)
    evaluation = PretrainingEvaluation(config, visual_tokenizer, tokenizer, device, check_shards)
    given = {name: getattr(settings, name) for name in ("images", "pairs", "texts", "labelled")}
    data = ", ".join(f"{name} {folder}" for name, folder in given.items() if folder)
    subject = f"{found.origin}; up to {settings.num_samples} samples of each kind, from {data}"
    # the weights as training computes with them, so that the figures are those of the run
    return found.model.to(device, config.dtype), evaluation, subject


def open_source(source: Path, weights: WeightKind = "raw") -> Evaluated:
    """Return the network of a run, a checkpoint, or a folder that `--to safetensors` wrote from one.

    weights: of a checkpoint. Raises ValueError if the source is none of them, or does not have these weights.
    """
    source = resolve_best(source)
    if (source / WEIGHTS_NAME).is_file():
        if weights != "raw":
            raise ValueError(f"{source} is an export, which has one kind of weights; leave out --weights")
        return open_export(source)
    checkpoint = find_checkpoint(source, PretrainConfig)
    fingerprint = checkpoint.data_fingerprints.get("visual tokenizer")
    kind = "the weights as trained" if weights == "raw" else "the moving average of the weights"
    origin = f"step {checkpoint.step} in {checkpoint.folder}, {kind}"
    return Evaluated(load_model(checkpoint, weights), checkpoint.config, checkpoint.text_tokenizer, fingerprint, origin)


def open_export(folder: Path) -> Evaluated:
    """Return the network of a folder that `--to safetensors` wrote from a run. Raises ValueError for another one."""
    card = read_card(folder / CARD_NAME) if (folder / CARD_NAME).is_file() else {}
    tokenizer = tokenizer_beside(folder, fingerprint_in(folder / WEIGHTS_NAME))
    if not isinstance(card.get("config"), dict) or tokenizer is None:
        missing = "the text tokenizer" if tokenizer is None else f"the settings of a run in {CARD_NAME}"
        raise ValueError(f"{folder} lacks {missing}, which an evaluation needs; evaluate a run or an export of one")
    config = config_from_json(PretrainConfig, json.dumps(card["config"]))
    # an export may have another image size or fewer words than its run
    config = replace(config, model=read_config(folder))
    fingerprints = card.get("data_fingerprints", {})
    network = load_network(folder)
    if not isinstance(network, MaskedDataModel):
        raise ValueError(f"{folder} holds a dual encoder, not a network of masked data modeling; give another export")
    return Evaluated(network, config, tokenizer, fingerprints.get("visual tokenizer"), str(folder))


def report(subject: str, figures: Figures) -> str:
    """Return what was evaluated and the figures, one per line."""
    width = max(map(len, figures), default=0)
    return "\n".join([subject, *(f"{name:{width}} {value:.6g}" for name, value in figures.items())])
