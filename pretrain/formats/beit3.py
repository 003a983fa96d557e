"""Microsoft's BEiT-3 files: {"model": {name: float32 tensor}}, the names of torchscale's BEiT3 behind `beit3.`.

That format has a vision branch (A) and a language branch (B) in every layer, every projection and norm once per branch,
and no vision-language expert. Shared attention is written into both. Where the network has vision-language experts, a
role says what stands in the top layers, each exact for its use:

    fusion         the vision-language expert in both branches: image-text pairs
    dual           the vision and the language expert: images alone, texts alone
    vision, text   the same weights as dual, verified for images alone, for texts alone

Source: torchscale 0.3.0; unilm/beit3 utils.load_model_and_may_interpolate.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from model.config import MultiwayConfig
from model.embeddings import POSITION_OFFSET
from model.parameter_counts import parameter_shapes

Role = Literal["fusion", "dual", "vision", "text"]
BRANCHES = {"A": "vision", "B": "language"}
NUM_HEADS = {(768, 12, 3072): 12, (1024, 24, 4096): 16, (1408, 40, 6144): 16}
"""Attention heads of the published dim, depth and ffn_dim: the files do not say."""


@dataclass(frozen=True)
class Place:
    """Where a parameter of ours, or a third of it, stands in their file."""

    name: str
    third: int | None = None
    """0, 1, 2 for the q, k, v rows of our qkv."""


def save_beit3(weights: Iterable[tuple[str, Tensor]], config: MultiwayConfig, role: Role, path: Path) -> None:
    """Write a file that is exact for a role."""
    torch.save({"model": dict(beit3_entries(weights, config, role))}, path)


def load_beit3(path: Path, is_mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, or is_mapped: a view of it. Raises ValueError where it is none of theirs."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give a BEiT-3 checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:  # what is no such file can raise anything
        reason = "it is damaged, was not written by torch.save, or holds code, which is not executed"
        raise ValueError(f"{path} is no file of tensors alone: {reason}") from error
    if isinstance(content, dict):
        content = content.get("model", content.get("module", content))
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is no BEiT-3 checkpoint: it has no 'model' that maps names to tensors")
    return content


def beit3_entries(
    weights: Iterable[tuple[str, Tensor]], config: MultiwayConfig, role: Role
) -> Iterator[tuple[str, Tensor]]:
    """Our parameters as theirs, float32, each in memory of its own. Raises ValueError for a name without a place."""
    shapes = parameter_shapes(config)
    for name, tensor in weights:
        for place in places(name, role, shapes):
            part = tensor if place.third is None else tensor.chunk(3)[place.third]
            yield place.name, part.detach().to(torch.float32, copy=True).contiguous()


def decoupled_weights(entries: dict[str, Tensor], config: MultiwayConfig) -> Iterator[tuple[str, Tensor]]:
    """Their parameters as ours, bit for bit, taken out of `entries` one by one; config: as `config_of` gives it.

    Raises ValueError, naming them, where parameters are missing, left over or of another shape.
    """
    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        parts = places(name, "dual", shapes)
        missing = [place.name for place in parts if place.name not in entries]
        if missing:
            raise ValueError(
                f"the file has no {', '.join(missing)}: it is no pretraining checkpoint, which has both heads"
            )
        tensors = [entries.pop(place.name) for place in parts]
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        if tensor.shape != shape:
            raise ValueError(f"{parts[0].name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        yield name, tensor.to(torch.float32)
        del tensor, tensors
    if entries:
        raise ValueError(f"the file has parameters without a place here: {', '.join(sorted(entries))}")


def config_of(entries: Mapping[str, Tensor], num_heads: int | None) -> MultiwayConfig:
    """The sizes of the network in a file. num_heads: needed where the sizes are not published ones.

    Raises ValueError where they cannot be told.
    """
    try:
        vocab_size, dim = entries["beit3.text_embed.weight"].shape
        patch_size = entries["beit3.vision_embed.proj.weight"].shape[-1]
        num_rows = len(entries["beit3.encoder.embed_positions.A.weight"])
        num_text_rows = len(entries["beit3.encoder.embed_positions.B.weight"])
        ffn_dim = len(entries["beit3.encoder.layers.0.ffn.A.fc1.weight"])
        num_visual_tokens = len(entries["mim_head.weight"])
    except KeyError as error:
        raise ValueError(f"the file has no {error.args[0]}: it is no BEiT-3 pretraining checkpoint") from error
    layers = {int(match[1]) for name in entries if (match := re.match(r"beit3\.encoder\.layers\.(\d+)\.", name))}
    sizes = (dim, max(layers) + 1, ffn_dim)
    published = NUM_HEADS.get(sizes)
    if num_heads is None and published is None:
        raise ValueError(f"dim, depth, ffn_dim {sizes} are not published and files do not say heads; give --num-heads")
    if None not in (num_heads, published) and num_heads != published:
        raise ValueError(f"the published network of dim, depth, ffn_dim {sizes} has {published} heads, not {num_heads}")
    side = round((num_rows - POSITION_OFFSET - 1) ** 0.5)
    return MultiwayConfig(
        dim=dim,
        depth=max(layers) + 1,
        num_heads=num_heads or published or 0,
        ffn_dim=ffn_dim,
        attention="decoupled",
        image_size=side * patch_size,
        patch_size=patch_size,
        vocab_size=vocab_size,
        num_visual_tokens=num_visual_tokens,
        max_text_length=num_text_rows - POSITION_OFFSET,
    )


def decoupled(config: MultiwayConfig) -> MultiwayConfig:
    """The network that a converted file is: decoupled attention, no vision-language experts."""
    return replace(config, attention="decoupled", num_vl_layers=0)


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


def places(name: str, role: Role, shapes: Mapping[str, torch.Size]) -> list[Place]:
    """Where a parameter of ours stands: once per branch for what both share, nowhere for what the role leaves out.

    Raises ValueError for a name without a place.
    """
    if name in _OUTSIDE_BLOCKS:
        return [Place(_OUTSIDE_BLOCKS[name])]
    module, kind = name.rsplit(".", 1)  # kind: weight or bias
    words = module.split(".")
    expert = next((word for word in words if word in ("shared", "vision", "language", "vision_language")), None)
    if words[:1] != ["encoder"] or expert is None:
        raise ValueError(f"{name} has no place in Microsoft's format")
    has_vl_expert = name.replace(f".{expert}.", ".vision_language.") in shapes
    branches = _branches(expert, role, has_vl_expert)
    words.remove(expert)
    if words == ["encoder", "norm"]:
        return [Place(f"beit3.encoder.layer_norm.{branch}.{kind}") for branch in branches]
    layer, inner = words[2], ".".join(words[3:])
    prefix = f"beit3.encoder.layers.{layer}"
    if inner == "attn.qkv":
        return [
            Place(f"{prefix}.self_attn.{letter}_proj.{branch}.{kind}", third)
            for branch in branches
            for third, letter in enumerate("qkv")
        ]
    if inner not in _INSIDE_BLOCK:
        raise ValueError(f"{name} has no place in Microsoft's format")
    return [Place(f"{prefix}.{_INSIDE_BLOCK[inner].format(X=branch)}.{kind}") for branch in branches]


def _branches(expert: str, role: Role, has_vl_expert: bool) -> list[str]:
    """The branches, A and B, that an expert of ours is written to."""
    if expert == "shared":
        return list(BRANCHES)
    if has_vl_expert and role == "fusion":
        return list(BRANCHES) if expert == "vision_language" else []
    return [branch for branch, modality in BRANCHES.items() if modality == expert]
