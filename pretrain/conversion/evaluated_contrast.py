"""Evaluate a dual encoder of a run, a checkpoint, an exported folder or Microsoft's file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_pipeline.loading.config import DataConfig
from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder
from model.flash_attention import activate_flash_attention
from model.pretrained import WEIGHTS_NAME
from pretrain.checkpoints.best import resolve_best
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.contrast import ContrastConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.run_config import config_from_json
from pretrain.conversion.model_card import read_card
from pretrain.conversion.opened import Opened, open_network
from pretrain.conversion.target import CARD_NAME
from pretrain.evaluation.contrast import ContrastEvaluation
from pretrain.evaluation.dual_features import FeatureSettings
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.launched import Launched
from pretrain.evaluation.options import EvaluateOptions
from pretrain.formats.preprocessing import PREPROCESSING_NAME
from pretrain.survival.console import warn


@dataclass(frozen=True)
class Prepared:
    """A dual encoder on its device, and what is to be computed of it."""

    network: DualEncoder
    evaluation: ContrastEvaluation
    origin: str
    """Where the weights are from, in words."""


def evaluate_dual_encoder(options: EvaluateOptions, launched: Launched) -> tuple[str, Figures]:
    """Return a line on what was evaluated, and its figures. All ranks call it.

    Raises ValueError if the source, its tokenizer or held-out data cannot be used.
    """
    found = launched.prepare(lambda: prepare(options, launched.device, launched.ranks.rank == 0))
    if launched.ranks.rank == 0:
        for line in found.evaluation.skipped:
            warn(line)
    figures = found.evaluation.figures(found.network, launched.ranks)
    return "; ".join([found.origin, *found.evaluation.describe()]), figures


def prepare(options: EvaluateOptions, device: torch.device, check_shards: bool) -> Prepared:
    """Open the network and the held-out data. check_shards: as `read_index` has it. Raises ValueError, OSError."""
    config = run_config(options.source)
    settings = options.applied_to(EvaluationConfig() if config is None else config.evaluation)
    if not (settings.pairs or settings.labelled):
        raise ValueError(f"{options.source} names no held-out data; give --pairs or --labelled")
    opened = open_network(options.source, options.weights)
    network = opened.network
    if not isinstance(network, DualEncoder):
        raise ValueError(
            f"{opened.origin} is not a dual encoder; give a contrastive run or export, or Microsoft's itc or retrieval "
            "file. A pretrained network is evaluated as a run, or as a folder that pretrain.convert wrote from one"
        )
    activate_flash_attention("auto" if config is None else config.flash_attention, device)
    # recall among the first of many candidates is another figure, so a given source is taken whole
    max_pairs = options.num_samples or (settings.num_samples if options.pairs is None else None)
    dtype = torch.float32 if config is None else config.dtype
    evaluation = ContrastEvaluation(
        replace(settings, best=None),
        DataConfig() if config is None else config.data,
        feature_settings(opened, settings.chunk_size, dtype, device),
        check_shards,
        max_pairs,
        options.reading,
    )
    # the weights as training computes with them, so that the figures are those of the run
    return Prepared(network.to(device, dtype), evaluation, opened.origin)


def run_config(source: Path) -> ContrastConfig | None:
    """Return the settings of the contrastive run that a source is from; None if it does not say."""
    source = resolve_best(source)
    if source.is_file():
        return None
    if not (source / WEIGHTS_NAME).is_file():
        return find_checkpoint(source, ContrastConfig).config
    card = read_card(source / CARD_NAME) if (source / CARD_NAME).is_file() else {}
    if not isinstance(card.get("config"), dict) or not card.get("heads"):
        return None
    return config_from_json(ContrastConfig, json.dumps(card["config"]))


def feature_settings(opened: Opened, chunk_size: int, dtype: torch.dtype, device: torch.device) -> FeatureSettings:
    """Return how the opened network takes images and texts. Raises ValueError if it has no text tokenizer, or crops
    images, which no training of a dual encoder does."""
    preprocessing, network = opened.preprocessing, opened.network
    if preprocessing.crop_mode != "squash":
        raise ValueError(
            f"{PREPROCESSING_NAME} of {opened.origin} has crop_mode {preprocessing.crop_mode!r}; a dual encoder is "
            "evaluated on whole images, with 'squash'"
        )
    return FeatureSettings(
        image_size=preprocessing.image_size,
        patch_size=network.encoder.config.patch_size,
        tokenizer=TextTokenizer(opened.need_tokenizer()),
        text_length=min(preprocessing.caption_length, opened.network.encoder.config.max_text_length),
        chunk_size=chunk_size,
        dtype=dtype,
        device=device,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
