"""A folder that transformers loads without Imglish: weights, configuration, tokenizer, and the code of the network.

The code is pretrain/formats/transformers_files. config.json and its like name the classes (`auto_map`), and transformers
executes them if it is called with trust_remote_code=True. Its modules are named as ours, so no table of names is needed:
every tensor has the name that it has in our state dict, where each vector of a stacked parameter
(model/stacked_vectors.py) has one of its own.
"""

import importlib.util
import json
import shutil
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from model.config import MultiwayConfig
from model.multiway import MultiwayInputs, MultiwayStates
from model.pretrained import CONFIG_NAME

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
    "AutoConfig": "configuration_beit3.Beit3Config",
    "AutoModel": "modeling_beit3.Beit3Model",
    "AutoModelForMaskedLM": "modeling_beit3.Beit3ForMaskedLM",
    "AutoModelForZeroShotImageClassification": "modeling_beit3.Beit3ForZeroShotImageClassification",
}
PROCESSING_MAP = {
    "AutoProcessor": "processing_beit3.Beit3Processor",
    "AutoImageProcessor": "processing_beit3.Beit3ImageProcessor",
    "AutoTokenizer": ["processing_beit3.Beit3Tokenizer", None],
}


def write_code(folder: Path) -> None:
    """Copy the files of code. Raises OSError if they cannot be written."""
    for name in CODE_FILES:
        shutil.copyfile(CODE_FOLDER / name, folder / name)


def write_config(config: MultiwayConfig, tensors: Collection[str], mask_id: int, folder: Path) -> None:
    """Write config.json. Raises OSError if it cannot be written.

    tensors: names of the weights, which tell the heads; mask_id: id of <mask>.
    """
    heads = {
        "masked_data_heads": "mlm_head.weight" in tensors,
        "contrastive_heads": "vision_head.weight" in tensors,
        "logit_bias": "logit_bias" in tensors,
    }
    absent = {"AutoModelForMaskedLM"} - ({"AutoModelForMaskedLM"} if heads["masked_data_heads"] else set())
    if not heads["contrastive_heads"]:
        absent.add("AutoModelForZeroShotImageClassification")
    values = {
        "model_type": "beit3",
        "architectures": ["Beit3Model"],
        "auto_map": {name: place for name, place in AUTO_MAP.items() if name not in absent},
        **{theirs: getattr(config, ours) for ours, theirs in FIELDS.items()},
        "decoupled_attention": config.attention == "decoupled",
        **heads,
        "mask_token_id": mask_id,
    }
    _write_json(folder / CONFIG_NAME, values)


def write_preprocessors(
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    text_lengths: tuple[int, int] | None,
    folder: Path,
) -> None:
    """Write the settings of image processor, tokenizer and processor. Raises OSError if they cannot be written.

    text_lengths: longest text and longest caption in tokens; None: there is no text tokenizer, and only the image
    processor is written.
    """
    image_processor = {
        "auto_map": {"AutoImageProcessor": PROCESSING_MAP["AutoImageProcessor"]},
        "size": {"height": image_size, "width": image_size},
        "image_mean": list(mean),
        "image_std": list(std),
    }
    _write_json(folder / "preprocessor_config.json", image_processor)
    if text_lengths is None:
        return
    tokenizer = {
        "tokenizer_class": "Beit3Tokenizer",
        "auto_map": {"AutoTokenizer": PROCESSING_MAP["AutoTokenizer"]},
        "model_max_length": text_lengths[0],
        "padding_side": "right",
    }
    _write_json(folder / "tokenizer_config.json", tokenizer)
    processor = {
        "processor_class": "Beit3Processor",
        "auto_map": {"AutoProcessor": PROCESSING_MAP["AutoProcessor"]},
        "caption_length": text_lengths[1],
    }
    _write_json(folder / "processor_config.json", processor)


def import_modeling(folder: Path) -> ModuleType:
    """Import modeling_beit3.py from a folder. Raises ValueError if transformers cannot be imported."""
    check_transformers()
    package = f"beit3_of_{abs(hash(folder.resolve()))}"
    spec = importlib.util.spec_from_loader(package, loader=None, is_package=True)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__path__ = [str(folder)]
    sys.modules[package] = module
    try:
        return importlib.import_module(f"{package}.modeling_beit3")
    finally:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def check_transformers(remedy: str = "pip install transformers, or pass --no-verify") -> None:
    """Raise ValueError if transformers, which is optional, cannot be imported."""
    try:
        importlib.import_module("transformers")
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"transformers is needed here ({str(error).splitlines()[0]}); {remedy}") from error


def states_of(model: Any, inputs: MultiwayInputs) -> MultiwayStates:
    """Return the hidden states of a packed step from a `Beit3Model`, which takes images, texts and pairs one by one."""
    num_pairs = len(inputs.caption_ids)
    num_images = len(inputs.images) - num_pairs
    images, captions, texts = [], inputs.caption_ids.new_zeros(0), inputs.text_ids.new_zeros(0)
    if num_images:
        output = model(inputs.images[:num_images], image_mask=inputs.image_mask[:num_images])
        images.append(output.image_hidden_state)
    if num_pairs:
        output = model(
            inputs.images[num_images:],
            inputs.caption_ids,
            (~inputs.caption_padding).long(),
            inputs.image_mask[num_images:],
        )
        images.append(output.image_hidden_state)
        captions = output.text_hidden_state
    if len(inputs.text_ids):
        texts = model(None, inputs.text_ids, (~inputs.text_padding).long()).text_hidden_state
    return MultiwayStates(torch.cat(images) if images else inputs.images.new_zeros(0), captions, texts)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


Tensors = dict[str, Tensor]
