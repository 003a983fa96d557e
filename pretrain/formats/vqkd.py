"""BEiT v2's visual tokenizer files: {"model": {name: tensor}}, 220 of them for a decoder of three blocks.

Our files are such files with one more entry, "config"; theirs say only by their shapes how large the network is. Names
are ours but for the codebook, of which theirs hold several copies:

    quantize.embedding.weight, .embed_avg              the codes (only the first is read, by them and by us)
    quantize.cluster_size, quantize.embedding.cluster_size   moving averages of the features a code gets
    quantize.embedding.initted                         1 once the codes are

Source: unilm/beit2/modeling_vqkd.py and norm_ema_quantizer.py.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig

NOT_OF_THE_TOKENIZER = ("loss", "teacher", "scaling")
"""Beginnings of names that only their training needs."""
HEAD_DIM = 64
"""Of the published networks: their files do not say."""


def save_vqkd(tokenizer: VisualTokenizer, path: Path) -> None:
    """Write a file that BEiT v2's code loads strictly, complete or not at all. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save({"config": asdict(tokenizer.config), "model": vqkd_entries(tokenizer)}, partial)
    except RuntimeError as error:  # torch's answer to a full disk
        raise OSError(f"{partial} cannot be written ({error}); free space and start again") from error
    partial.replace(path)


def load_vqkd(path: Path) -> VisualTokenizer:
    """The tokenizer of one of their files or ours. Raises ValueError where the file is none or has other parameters."""
    content = _read(path)
    entries = content.get("model", content.get("state_dict"))
    if not isinstance(entries, dict) or "encoder.pos_embed" not in entries:
        raise ValueError(f"{path} is no visual tokenizer: it has no 'model' with the parameters of one")
    entries = {name: value for name, value in entries.items() if not name.startswith(NOT_OF_THE_TOKENIZER)}
    try:
        config = VisualTokenizerConfig(**content["config"]) if "config" in content else config_of(entries)
        tokenizer = VisualTokenizer(config)
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{path} is no visual tokenizer that is understood here ({error})") from error
    expected = vqkd_entries(tokenizer)
    for name in sorted(set(expected) | set(entries)):
        shapes = [tuple(part[name].shape) if name in part else "nothing" for part in (entries, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{path} has {shapes[0]} for {name}, expected {shapes[1]}")
    weights = {name: value for name, value in entries.items() if not name.startswith("quantize.")}
    weights["codebook.codes"] = entries["quantize.embedding.weight"]
    weights["codebook.cluster_sizes"] = entries["quantize.cluster_size"]
    weights["codebook.steps_unused"] = torch.zeros_like(entries["quantize.cluster_size"])
    weights["codebook.is_initialized"] = entries["quantize.embedding.initted"][0] > 0
    tokenizer.load_state_dict(weights)
    return tokenizer


def vqkd_entries(tokenizer: VisualTokenizer) -> dict[str, Tensor]:
    """The tensors of a file, by their names."""
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
    """The sizes that the shapes of a published file tell. Raises KeyError where a tensor is missing."""

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


def _read(path: Path) -> dict[str, Any]:
    """Nothing in the file is executed; the options of a training run, which their files may hold, are let through."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no such file can raise anything
        reason = "it is damaged, was not written by torch.save, or holds code, which is not executed"
        raise ValueError(f"{path} is no file of tensors alone: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no visual tokenizer: it holds no dictionary")
    return content
