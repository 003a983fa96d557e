"""Tiny networks as `open_network` gives them, and folders that it opens, without a training."""

import shutil
from pathlib import Path
from typing import Any

import torch

from model.config import MultiwayConfig
from model.dual_encoder import DualEncoder
from model.pretrained import save_network
from pretrain.conversion.opened import Opened
from pretrain.formats.preprocessing import Preprocessing, write_preprocessing
from pretrain.formats.vocabulary import EXPORTED_NAME
from tests.support.tiny import CONFIG, tiny_model
from tests.support.tiny_run import TinyData

SIZE = CONFIG.image_size
LENGTH = 10
"""Tokens of a text and of a caption."""
PREPROCESSING = Preprocessing(SIZE, text_length=LENGTH, caption_length=LENGTH)


def tiny_dual_encoder(**changes: Any) -> DualEncoder:
    """Return a dual encoder with random parameters."""
    config: MultiwayConfig = tiny_model(**changes).encoder.config
    network = DualEncoder(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def tiny_opened(data: TinyData | None, is_dual: bool = False, **changes: Any) -> Opened:
    """Return a network of 120 words with the tokenizer of `data`; None: without one."""
    make = tiny_dual_encoder if is_dual else tiny_model
    tokenizer = None if data is None else data.folder / "text_tokenizer.spm"
    return Opened(make(vocab_size=120, **changes), tokenizer, PREPROCESSING, "tiny weights")


def write_export(folder: Path, data: TinyData) -> Path:
    """Write the same network as a folder that `--to safetensors` writes, and return the folder."""
    folder.mkdir()
    network = tiny_model(vocab_size=120)
    save_network(dict(network.state_dict()), network.encoder.config, folder)
    shutil.copy(data.folder / "text_tokenizer.spm", folder / EXPORTED_NAME)
    write_preprocessing(PREPROCESSING, folder)
    return folder
