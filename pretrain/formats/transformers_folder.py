"""A folder that transformers loads without Imglish: weights, configuration, tokenizer, and the code of the network.

The code is pretrain/formats/transformers_files. Its classes are named in config.json and its like (`auto_map`), and
transformers executes them if it is called with trust_remote_code=True. Its modules are named as ours, so no table of
names is needed: every tensor has the name that it has in our state dict, where each vector of a stacked parameter
(model/stacked_vectors.py) has one of its own.
"""

import importlib
import json
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.config import MultiwayConfig
from model.multiway import MultiwayInputs, MultiwayStates
from model.pretrained import CONFIG_NAME
from pretrain.formats.preprocessing import Preprocessing

CODE_FOLDER = Path(__file__).parent / "transformers_files"
CODE_FILES = ("configuration_beit3.py", "modeling_beit3.py", "processing_beit3.py")
FIELDS = {
    # field of MultiwayConfig: field of Beit3Config
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_dim": "intermediate_size",
    "num_vl_layers": "num_vl_layers",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "vocab_size": "vocab_size",
    "num_visual_tokens": "num_visual_tokens",
    "max_text_length": "max_position_embeddings",
    "drop_path_rate": "drop_path_rate",
    "init_std": "initializer_range",
}
AUTO_MAP = {
    # class of transformers: class of ours, and the heads that it needs
    "AutoConfig": ("configuration_beit3.Beit3Config", None),
    "AutoModel": ("modeling_beit3.Beit3Model", None),
    "AutoModelForMaskedLM": ("modeling_beit3.Beit3ForMaskedLM", "masked_data_heads"),
    "AutoModelForZeroShotImageClassification": (
        "modeling_beit3.Beit3ForZeroShotImageClassification",
        "contrastive_heads",
    ),
}
PROCESSORS: dict[str, Any] = {
    "AutoImageProcessor": "processing_beit3.Beit3ImageProcessor",
    "AutoTokenizer": ["processing_beit3.Beit3Tokenizer", None],  # without and with the library tokenizers
    "AutoProcessor": "processing_beit3.Beit3Processor",
}


class TextSettings(NamedTuple):
    """What is known of texts."""

    num_ids: int
    """Number of ids of the text tokenizer; the last is <mask>."""
    text_length: int | None
    """Longest text in training, in tokens; None if it is not known."""
    caption_length: int | None
    """Longest text beside an image, likewise."""


def write_code(folder: Path) -> None:
    """Copy the files of code. Raises OSError if they cannot be written."""
    for name in CODE_FILES:
        shutil.copyfile(CODE_FOLDER / name, folder / name)


def heads_in(tensors: Collection[str]) -> dict[str, bool]:
    """Return which heads there are among the names of weights, as Beit3Config has them."""
    return {
        "masked_data_heads": "mlm_head.weight" in tensors,
        "contrastive_heads": "vision_head.weight" in tensors,
        "logit_bias": "logit_bias" in tensors,
    }


def write_config(config: MultiwayConfig, heads: Mapping[str, bool], text: TextSettings | None, folder: Path) -> None:
    """Write config.json. Raises OSError if it cannot be written. text: None if there is no text tokenizer."""
    values = {
        "model_type": "beit3",
        "architectures": ["Beit3Model"],
        "auto_map": {name: place for name, (place, needed) in AUTO_MAP.items() if needed is None or heads[needed]},
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        "decoupled_attention": config.attention == "decoupled",
        **heads,
        "mask_token_id": None if text is None else text.num_ids - 1,
    }
    _write_json(folder / CONFIG_NAME, values)


def write_preprocessors(
    config: MultiwayConfig, preprocessing: Preprocessing, text: TextSettings | None, folder: Path
) -> None:
    """Write the settings of image processor, tokenizer and processor. Raises OSError if they cannot be written.

    preprocessing: that of images; text: None if there is no text tokenizer: then only the image processor is written.
    """
    size = preprocessing.image_size
    images = {
        "size": {"height": size, "width": size},
        "do_center_crop": preprocessing.crop_mode == "center",
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    _write_processor(folder / "preprocessor_config.json", "AutoImageProcessor", images)
    if text is None:
        return
    # texts are cut to the lengths of training: rows of positions beyond them were never trained
    text_length, caption_length = (length or config.max_text_length for length in text[1:])
    tokenizer = {"tokenizer_class": "Beit3Tokenizer", "model_max_length": text_length, "padding_side": "right"}
    _write_processor(folder / "tokenizer_config.json", "AutoTokenizer", tokenizer)
    processor = {"processor_class": "Beit3Processor", "caption_length": caption_length}
    _write_processor(folder / "processor_config.json", "AutoProcessor", processor)


def import_code(folder: Path, name: str = "modeling_beit3") -> ModuleType:
    """Import a file of code from a folder, writing nothing there. Raises ValueError without transformers."""
    check_transformers()
    package = ModuleType("beit3_in_a_folder")  # a package for the time of the import, which is relative
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return importlib.import_module(f"{package.__name__}.{name}")
    finally:
        sys.dont_write_bytecode = writes_bytecode
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]


def check_transformers(remedy: str = "pip install -c constraints.txt transformers, or pass --no-verify") -> None:
    """Raise ValueError if transformers, which is optional, cannot be imported."""
    importlib.import_module("pretrain.formats.cpu_torchvision")
    try:
        _ = importlib.import_module("transformers").PreTrainedModel  # imports torchvision, if it is there
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"transformers is needed here ({str(error).splitlines()[0]}); {remedy}") from error


def states_of(model: Any, inputs: MultiwayInputs) -> MultiwayStates:
    """Return the hidden states of a packed step from a `Beit3Model`, which takes images, pairs and texts in three
    calls."""
    num_pairs, dim = len(inputs.caption_ids), model.config.hidden_size
    num_images = len(inputs.images) - num_pairs
    (images, pair_images), (mask, pair_mask) = (
        x.split([num_images, num_pairs]) for x in (inputs.images, inputs.image_mask)
    )
    of_images = [inputs.images.new_zeros(0, mask.shape[1] + 1, dim)]
    of_captions = inputs.images.new_zeros(*inputs.caption_ids.shape, dim)
    of_texts = inputs.images.new_zeros(*inputs.text_ids.shape, dim)
    if num_images:
        of_images.append(model(images, image_mask=mask).image_hidden_state)
    if num_pairs:
        pairs = model(pair_images, inputs.caption_ids, (~inputs.caption_padding).long(), pair_mask)
        of_images.append(pairs.image_hidden_state)
        of_captions = pairs.text_hidden_state
    if len(inputs.text_ids):
        of_texts = model(None, inputs.text_ids, (~inputs.text_padding).long()).text_hidden_state
    return MultiwayStates(torch.cat(of_images), of_captions, of_texts)


def features_of(model: Any, inputs: MultiwayInputs) -> list[Tensor]:
    """Return the features of images and of texts of a packed step without pairs, from a `Beit3Model`."""
    images = [model.get_image_features(inputs.images, inputs.image_mask)] if len(inputs.images) else []
    texts = [model.get_text_features(inputs.text_ids, (~inputs.text_padding).long())] if len(inputs.text_ids) else []
    return images + texts


def _write_processor(path: Path, auto_class: str, values: dict[str, Any]) -> None:
    _write_json(path, {"auto_map": {auto_class: PROCESSORS[auto_class]}, **values})


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
