"""Folders for transformers, of tiny networks."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_pipeline.texts.tokenizer import TextTokenizer
from model.config import DualHeads
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs, MultiwayStates
from model.pretrained import save_safetensors
from pretrain.formats.preprocessing import default_preprocessing
from pretrain.formats.transformers_folder import (
    TextSettings,
    heads_in,
    import_code,
    write_code,
    write_config,
    write_preprocessors,
)
from pretrain.formats.vocabulary import EXPORTED_NAME
from tests.support.tiny import CONFIG

TEXT = TextSettings(num_ids=50, text_length=10, caption_length=8)


def write_folder(network: MaskedDataModel | DualEncoder, folder: Path, tokenizer: Path | None = None) -> None:
    """Write what pretrain.convert --to transformers writes, but cards. tokenizer: None for 50 ids without one."""
    weights, config = dict(network.state_dict()), network.encoder.config
    text = TEXT if tokenizer is None else TEXT._replace(num_ids=TextTokenizer(tokenizer).vocab_size)
    save_safetensors(weights, folder / "model.safetensors")
    write_config(config, heads_in(weights), text, folder)
    write_preprocessors(config, default_preprocessing(config), text, folder)
    write_code(folder)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / EXPORTED_NAME)


def load_folder(folder: Path, kind: str = "Beit3Model") -> Any:
    """Return the network in a folder, by the code in it; kind: name of the class."""
    return getattr(import_code(folder), kind).from_pretrained(folder).eval()


def without_padding(inputs: MultiwayInputs, states: MultiwayStates) -> list[torch.Tensor]:
    """Return hidden states of images, captions and texts without those of padding; empty ones are left out."""
    found = [states.images, states.captions[~inputs.caption_padding], states.texts[~inputs.text_padding]]
    return [part for part in found if part.numel()]


def tiny_dual_encoder(heads: DualHeads, **changes: Any) -> DualEncoder:
    """Return a dual encoder in which every parameter is random and large enough to matter."""
    network = DualEncoder(config := replace(CONFIG, **changes), heads)
    init_weights(network, config, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()
