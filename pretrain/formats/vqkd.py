"""BEiT v2's visual tokenizer files: {"model": {name: tensor}}, 220 of them for a decoder of three blocks.

Our files have one more entry, "config"; in theirs the sizes of the network follow from the shapes. Names are the same
except for the codebook, of which they hold several copies:

    quantize.embedding.weight, .embed_avg              the codes (only the first is read, by them and by us)
    quantize.cluster_size, quantize.embedding.cluster_size   moving averages of the features a code gets
    quantize.embedding.initted                         1 once the codes are

Source: unilm/beit2/modeling_vqkd.py and norm_ema_quantizer.py.
"""

import argparse
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor

from model.config import VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer
from model.weight_checks import check_weights
from model.weight_files import read_torch_file

NOT_OF_THE_TOKENIZER = ("loss", "teacher", "scaling")
"""Prefixes of parameters that only their training needs."""
HEAD_DIM = 64
"""Dimensions of a head in the published networks; their files do not record it."""


def save_vqkd(tokenizer: VisualTokenizer, path: Path) -> None:
    """Write a file that BEiT v2's code loads strictly, complete or not at all. Raises OSError if that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save({"config": asdict(tokenizer.config), "model": vqkd_entries(tokenizer)}, partial)
    except RuntimeError as error:  # torch's answer to a full disk
        raise OSError(f"{partial} cannot be written ({error}); free space and start again") from error
    partial.replace(path)


def load_vqkd(path: Path) -> VisualTokenizer:
    """Return the tokenizer in one of their files or ours.

    Raises ValueError, with the reason, if the file is not one, is damaged, or has other parameters or types of numbers,
    or values that are not finite; OSError if it cannot be read.
    """
    content = read_torch_file(path, [argparse.Namespace])  # which their files may hold: the options of a run
    entries = content.get("model", content.get("state_dict")) if isinstance(content, dict) else None
    if not isinstance(entries, dict) or "encoder.pos_embed" not in entries:
        raise ValueError(f"{path} is not a visual tokenizer: it has no 'model' with the parameters of one")
    entries = {name: value for name, value in entries.items() if not str(name).startswith(NOT_OF_THE_TOKENIZER)}
    check_weights(path, entries, _expected_entries(path, content, entries))
    tokenizer = VisualTokenizer(_config(path, content, entries))
    weights = {name: value for name, value in entries.items() if not name.startswith("quantize.")}
    weights["codebook.codes"] = entries["quantize.embedding.weight"]
    weights["codebook.cluster_sizes"] = entries["quantize.cluster_size"]
    weights["codebook.steps_unused"] = torch.zeros_like(entries["quantize.cluster_size"])
    weights["codebook.is_initialized"] = entries["quantize.embedding.initted"][0] > 0
    tokenizer.load_state_dict(weights)
    return tokenizer


def vqkd_entries(tokenizer: VisualTokenizer) -> dict[str, Tensor]:
    """Return the tensors of a file, by their names."""
    state, codebook = tokenizer.state_dict(), tokenizer.codebook
    entries = {name: value for name, value in state.items() if not name.startswith("codebook.")}
    return entries | {
        "quantize.cluster_size": codebook.cluster_sizes,
        "quantize.embedding.weight": codebook.codes,
        "quantize.embedding.cluster_size": codebook.cluster_sizes.clone(),
        "quantize.embedding.embed_avg": codebook.codes.clone(),
        "quantize.embedding.initted": codebook.is_initialized.float().view(1),
    }


def config_of(entries: dict[str, Tensor]) -> VisualTokenizerConfig:
    """Return the sizes that follow from the shapes in a published file. Raises KeyError if a tensor is missing."""

    def depth(part: str) -> int:
        return len({name.split(".")[2] for name in entries if name.startswith(f"{part}.blocks.")})

    dim, _, patch_size, _ = entries["encoder.patch_embed.proj.weight"].shape
    num_codes, code_dim = entries["quantize.embedding.weight"].shape
    return VisualTokenizerConfig(
        image_size=math.isqrt(entries["encoder.pos_embed"].shape[1] - 1) * patch_size,
        patch_size=patch_size,
        dim=dim,
        num_heads=max(1, dim // HEAD_DIM),
        encoder_depth=depth("encoder"),
        decoder_depth=depth("decoder"),
        num_codes=num_codes,
        code_dim=code_dim,
        teacher_dim=entries["decode_task_layer.2.weight"].shape[0],
    )


def _config(path: Path, content: dict[str, Any], entries: dict[str, Any]) -> VisualTokenizerConfig:
    """Return the sizes of the network in a file. Raises ValueError if they are not sound or larger than the file."""
    try:
        if "config" in content:
            if unknown := set(content["config"]) - {field.name for field in fields(VisualTokenizerConfig)}:
                raise ValueError(f"config has {', '.join(map(str, unknown))}")
            config = pydantic.TypeAdapter(VisualTokenizerConfig).validate_python(content["config"])
        else:
            config = config_of(entries)
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path} is not a visual tokenizer of a known kind ({reason}); give another") from error
    if config.encoder_depth + config.decoder_depth > len(entries):
        raise ValueError(f"{path} has {len(entries)} tensors for {config.encoder_depth} blocks; give another file")
    return config


def _expected_entries(path: Path, content: dict[str, Any], entries: dict[str, Any]) -> dict[str, Tensor]:
    """Return tensors of the right names and shapes, without values."""
    with torch.device("meta"):
        return vqkd_entries(VisualTokenizer(_config(path, content, entries)))
