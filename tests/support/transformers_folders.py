"""Folders for transformers, of tiny networks."""

import shutil
from pathlib import Path
from typing import Any

from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder
from model.masked_data_model import MaskedDataModel
from model.pretrained import save_safetensors
from pretrain.formats.transformers_folder import (
    TextSettings,
    heads_in,
    import_code,
    write_code,
    write_config,
    write_preprocessors,
)
from pretrain.formats.vocabulary import EXPORTED_NAME


def write_folder(
    network: MaskedDataModel | DualEncoder, folder: Path, tokenizer: Path | None = None, num_ids: int = 50
) -> None:
    """Write what pretrain.convert --to transformers writes, but cards. num_ids: without a tokenizer."""
    weights, config = dict(network.state_dict()), network.encoder.config
    num_ids = num_ids if tokenizer is None else TextTokenizer(tokenizer).vocab_size
    text = TextSettings(num_ids, text_length=10, caption_length=8)
    save_safetensors(weights, folder / "model.safetensors")
    write_config(config, heads_in(weights), text, folder)
    write_preprocessors(config, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), text, folder)
    write_code(folder)
    if tokenizer is not None:
        shutil.copyfile(tokenizer, folder / EXPORTED_NAME)


def load_folder(folder: Path, kind: str = "Beit3Model") -> Any:
    """Return the network in a folder, by the code in it; kind: name of the class."""
    return getattr(import_code(folder), kind).from_pretrained(folder).eval()
