"""Tiny networks as `open_network` gives them, and folders that it opens, without a training."""

import shutil
from pathlib import Path

from model.dual_encoder import DualEncoder
from model.networks import Network
from model.pretrained import save_network
from pretrain.conversion.opened import Opened
from pretrain.formats.preprocessing import Preprocessing, write_preprocessing
from pretrain.formats.vocabulary import EXPORTED_NAME
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_model
from tests.support.tiny_run import TinyData

SIZE = CONFIG.image_size
LENGTH = 10
"""Tokens of a text and of a caption."""
PREPROCESSING = Preprocessing(SIZE, text_length=LENGTH, caption_length=LENGTH)


def tiny_opened(data: TinyData | None, is_dual: bool = False) -> Opened:
    """Return a network of 120 words with the tokenizer of `data`; None: without one."""
    tokenizer = None if data is None else data.folder / "text_tokenizer.spm"
    return Opened(_network(is_dual), tokenizer, PREPROCESSING, "tiny weights")


def write_export(folder: Path, data: TinyData, is_dual: bool = False) -> Path:
    """Write the same network as a folder that `--to safetensors` writes, and return the folder."""
    folder.mkdir(parents=True)
    network = _network(is_dual)
    heads = network.heads if isinstance(network, DualEncoder) else None
    save_network(dict(network.state_dict()), network.encoder.config, folder, heads=heads)
    shutil.copy(data.folder / "text_tokenizer.spm", folder / EXPORTED_NAME)
    write_preprocessing(PREPROCESSING, folder)
    return folder


def _network(is_dual: bool) -> Network:
    return tiny_dual_encoder(vocab_size=120) if is_dual else tiny_model(vocab_size=120)
