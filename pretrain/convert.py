"""Convert a checkpoint: python -m pretrain.convert RUN_OR_CHECKPOINT OUT --role fusion|dual

Writes OUT/beit3_ROLE.pth, which Microsoft's BEiT-3 finetuning code and torchscale's BEiT3 load, the text tokenizer
beside it and a card that says where it comes from.

That format has a vision and a language branch in every layer and no vision-language expert, and every projection and
norm once per branch. Shared attention is written into both. Where the network has vision-language experts a role says
what stands in the top layers, each exact for its use:

    fusion   the vision-language expert in both branches: image-text pairs
    dual     the vision and the language expert: images alone, texts alone
"""

import contextlib
import io
import json
import shutil
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from model.masked_data_model import MaskedDataModel
from pretrain.checkpoint import TEXT_TOKENIZER_NAME, Checkpoint, latest_checkpoint, read_checkpoint
from pretrain.config import config_to_json

Role = Literal["fusion", "dual"]
BRANCHES = {"A": "vision", "B": "language"}


@dataclass(frozen=True)
class ConvertOptions:
    """Write a checkpoint in the format of Microsoft's BEiT-3 files."""

    source: tyro.conf.Positional[Path]
    """A run, whose newest checkpoint is taken, or one checkpoint folder."""
    out: tyro.conf.Positional[Path]
    """The folder to write into."""
    role: Role = "fusion"
    """What the top layers hold where the network has vision-language experts."""


def main() -> None:
    options = tyro.cli(ConvertOptions)
    try:
        path = convert(options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def convert(options: ConvertOptions) -> Path:
    """Write the file, the tokenizer and the card. Raises ValueError where there is no sound checkpoint."""
    checkpoint = find_checkpoint(options.source)
    state = beit3_state_dict(load_weights(checkpoint), options.role)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"beit3_{options.role}.pth"
    partial = path.with_name(path.name + ".partial")
    torch.save({"model": state}, partial)
    partial.rename(path)
    shutil.copy(checkpoint.text_tokenizer, options.out / TEXT_TOKENIZER_NAME)
    card = {
        "role": options.role,
        "checkpoint": checkpoint.folder.name,
        "step": checkpoint.step,
        "data_fingerprints": checkpoint.data_fingerprints,
        "config": json.loads(config_to_json(checkpoint.config)),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    return path


def find_checkpoint(source: Path) -> Checkpoint:
    """The newest checkpoint of a run folder, or the checkpoint folder itself. Raises ValueError where it is neither."""
    if not source.is_dir():
        raise ValueError(f"{source} does not exist; give a run folder or a checkpoint folder")
    if (source / "checkpoints").is_dir():
        checkpoint = latest_checkpoint(source)
        if checkpoint is None:
            raise ValueError(f"run {source} has no complete checkpoint yet")
        return checkpoint
    return read_checkpoint(source)


def load_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All float32 weights of a verified checkpoint by their names in MaskedDataModel, whatever its world size."""
    folder = checkpoint.folder
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells its progress
        state: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(folder.parent), tag=folder.name)
    return state


def load_model(checkpoint: Checkpoint) -> MaskedDataModel:
    """The network of a verified checkpoint, in evaluation mode on the CPU."""
    model = MaskedDataModel(checkpoint.config.model)
    model.load_state_dict(load_weights(checkpoint))
    return model.eval()


def beit3_state_dict(state: dict[str, Tensor], role: Role) -> "OrderedDict[str, Tensor]":
    """Our names to Microsoft's, float32, every tensor in memory of its own.

    state: of a MaskedDataModel. Raises ValueError for a name that has no place there.
    """
    converted: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in state.items():
        for new_name, value in _convert_entry(name, tensor, role, state):
            converted[new_name] = value.detach().to(torch.float32, copy=True).contiguous()
    return converted


_OUTSIDE_BLOCKS = {
    "encoder.vision_embed.cls_token": "beit3.vision_embed.cls_token",
    "encoder.vision_embed.mask_token": "beit3.vision_embed.mask_token",
    "encoder.vision_embed.patch_embed.weight": "beit3.vision_embed.proj.weight",
    "encoder.vision_embed.patch_embed.bias": "beit3.vision_embed.proj.bias",
    "encoder.vision_embed.pos_embed": "beit3.encoder.embed_positions.A.weight",
    "encoder.text_embed.word_embed.weight": "beit3.text_embed.weight",
    "encoder.text_embed.pos_embed": "beit3.encoder.embed_positions.B.weight",
    "mim_head.weight": "mim_head.weight",
    "mim_head.bias": "mim_head.bias",
    "mlm_head.weight": "mlm_head.weight",
    "mlm_head.bias": "mlm_head.bias",
}
_INSIDE_BLOCK = {
    # our module: their module, with {X} for the branch
    "norm1": "self_attn_layer_norm.{X}",
    "attn.norm": "self_attn.inner_attn_ln.{X}",
    "attn.proj": "self_attn.out_proj.{X}",
    "norm2": "final_layer_norm.{X}",
    "experts.fc1": "ffn.{X}.fc1",
    "experts.norm": "ffn.{X}.ffn_layernorm",
    "experts.fc2": "ffn.{X}.fc2",
}


def _convert_entry(name: str, tensor: Tensor, role: Role, state: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The entries that one of ours becomes: one per branch for what both share, none for what the role leaves out."""
    if name in _OUTSIDE_BLOCKS:
        return [(_OUTSIDE_BLOCKS[name], tensor)]
    module, kind = name.rsplit(".", 1)  # kind: weight or bias
    parts = module.split(".")
    expert = next((part for part in parts if part in ("shared", "vision", "language", "vision_language")), None)
    if parts[:1] != ["encoder"] or expert is None:
        raise ValueError(f"{name} has no place in Microsoft's format")
    has_vl_expert = name.replace(f".{expert}.", ".vision_language.") in state
    branches = _branches(expert, role, has_vl_expert)
    parts.remove(expert)
    if parts == ["encoder", "norm"]:
        return [(f"beit3.encoder.layer_norm.{branch}.{kind}", tensor) for branch in branches]
    layer, inner = parts[2], ".".join(parts[3:])
    prefix = f"beit3.encoder.layers.{layer}"
    if inner == "attn.qkv":
        return [
            (f"{prefix}.self_attn.{letter}_proj.{branch}.{kind}", part)
            for branch in branches
            for letter, part in zip("qkv", tensor.chunk(3), strict=True)
        ]
    if inner not in _INSIDE_BLOCK:
        raise ValueError(f"{name} has no place in Microsoft's format")
    return [(f"{prefix}.{_INSIDE_BLOCK[inner].format(X=branch)}.{kind}", tensor) for branch in branches]


def _branches(expert: str, role: Role, has_vl_expert: bool) -> list[str]:
    """The branches, A and B, that an expert of ours is written to."""
    if expert == "shared":
        return list(BRANCHES)
    if has_vl_expert and role == "fusion":
        return list(BRANCHES) if expert == "vision_language" else []
    return [branch for branch, modality in BRANCHES.items() if modality == expert]


if __name__ == "__main__":
    main()
