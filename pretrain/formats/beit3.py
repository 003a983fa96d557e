"""Microsoft's BEiT-3 files: {"model": {name: float32 tensor}}, the names of torchscale's BEiT3 behind `beit3.`.

That format has a vision branch (A) and a language branch (B) in every layer, every projection and norm once per branch,
and no vision-language expert. Shared attention is written into both; role.py has what becomes of vision-language
experts.

A pretraining checkpoint has mim_head and mlm_head beside them; beit3_dual.py and beit3_tasks.py have what a dual
encoder and the networks of other tasks have instead.

Their code builds a text position table of 1,024 rows, so a shorter one is padded with zeros, which no text reaches.

Source: torchscale 0.3.0; unilm/beit3 utils.load_model_and_may_interpolate.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.config import Heads, MultiwayConfig
from model.embeddings import POSITION_OFFSET
from model.parameter_counts import parameter_shapes
from model.weight_checks import check_weight
from pretrain.formats.beit3_contents import TEXT_POSITIONS, kind_of, missing_parts, task_heads
from pretrain.formats.beit3_dual import DUAL_PARTS, NOT_IN_DUAL
from pretrain.formats.beit3_tasks import TASK_PARTS
from pretrain.formats.role import Role

BRANCHES = {"A": "vision", "B": "language"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types of numbers that are read; float32 is written."""
NUM_TEXT_ROWS = 1024
"""Rows of the text position table that their code builds."""


@dataclass(frozen=True)
class Place:
    """Place of a parameter of ours, or of a third of it, in their file."""

    name: str
    third: int | None = None
    """0, 1, 2 for the q, k, v rows of our qkv."""


def beit3_entries(
    weights: Iterable[tuple[str, Tensor]], config: MultiwayConfig, role: Role, heads: Heads | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield our parameters under their names, float32, each in its own memory.

    heads: as for `build_network`. Raises ValueError for unknown names.
    """
    shapes = parameter_shapes(config, heads)
    for name, tensor in weights:
        for place in places(name, role, shapes):
            part = tensor if place.third is None else tensor.chunk(3)[place.third]
            yield place.name, part.detach().to(torch.float32, copy=True).contiguous()


def file_entries(
    weights: Iterable[tuple[str, Tensor]], config: MultiwayConfig, role: Role, heads: Heads | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield `beit3_entries` with as many text positions as their code builds."""
    for name, tensor in beit3_entries(weights, config, role, heads):
        if name == TEXT_POSITIONS and len(tensor) < NUM_TEXT_ROWS:
            tensor = torch.cat([tensor, tensor.new_zeros(NUM_TEXT_ROWS - len(tensor), tensor.shape[1])])
        yield name, tensor


def decoupled_weights(
    entries: dict[str, Tensor],
    config: MultiwayConfig,
    new_heads: bool = False,
    owner: object = "the file",
    heads: Heads | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield their parameters under our names, bit for bit, taken out of `entries` one by one.

    config: as `config_of` returns it; new_heads: initialize the parts that finetuned files lack; owner: the file, for
    messages; heads: as for `build_network`. Other heads of their tasks are left out. Raises ValueError, naming the
    parameter, if one is missing, left over, of another shape or type, or not finite.
    """
    shapes = parameter_shapes(config, heads)
    needed = [place.name for name in shapes for place in places(name, "dual", shapes)]
    absent = {
        part: prefix
        for part, prefix in missing_parts(entries).items()
        if any(name.startswith(prefix) for name in needed)
    }
    if absent and not new_heads:
        reason = kind_of(entries)
        raise ValueError(f"{owner} has no {' and no '.join(absent)}: {reason}; pass --new-heads to start them anew")
    for name, shape in shapes.items():
        parts = places(name, "dual", shapes)
        if parts[0].name.startswith(tuple(absent.values())):
            yield name, new_parameter(name, shape, config)
            continue
        missing = [place.name for place in parts if place.name not in entries]
        if missing:
            raise ValueError(f"{owner} has no {', '.join(missing)}: it is not a whole BEiT-3")
        part_shape = shape if len(parts) == 1 else torch.Size([shape[0] // len(parts), *shape[1:]])
        tensors = [_without_padding(place.name, entries.pop(place.name), config) for place in parts]
        for place, tensor in zip(parts, tensors, strict=True):
            check_weight(owner, place.name, tensor, part_shape, DTYPES)
        tensor = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        yield name, tensor.to(torch.float32)
        del tensor, tensors
    unknown = set(entries) - set(task_heads(entries))
    if unknown:
        raise ValueError(f"{owner} has parameters without a place here: {', '.join(sorted(unknown))}")


def _without_padding(name: str, tensor: Tensor, config: MultiwayConfig) -> Tensor:
    """Return text positions without the rows that `file_entries` adds. Raises ValueError if those rows are not zero."""
    num_rows = config.max_text_length + POSITION_OFFSET
    if name != TEXT_POSITIONS or tensor.layout != torch.strided or len(tensor) <= num_rows:
        return tensor
    if tensor[num_rows:].any():
        raise ValueError(f"{name} has {len(tensor)} rows of positions, {num_rows} by its card; remove the card")
    return tensor[:num_rows].clone()


def new_parameter(name: str, shape: torch.Size, config: MultiwayConfig) -> Tensor:
    """Return a parameter as model.initialization fills it, seeded by its name."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name.startswith("encoder.norm."):
        return torch.ones(shape)
    generator, std = torch.Generator().manual_seed(zlib.crc32(name.encode())), config.init_std
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-std, b=std, generator=generator)


def decoupled(config: MultiwayConfig) -> MultiwayConfig:
    """Return the config of the network in a converted file: decoupled attention, no vision-language experts."""
    return replace(config, attention="decoupled", num_vl_layers=0)


_OUTSIDE_BLOCKS = {
    "encoder.vision_embed.cls_token": "beit3.vision_embed.cls_token",
    "encoder.vision_embed.mask_token": "beit3.vision_embed.mask_token",
    "encoder.vision_embed.patch_embed.weight": "beit3.vision_embed.proj.weight",
    "encoder.vision_embed.patch_embed.bias": "beit3.vision_embed.proj.bias",
    "encoder.vision_embed.pos_embed": "beit3.encoder.embed_positions.A.weight",
    "encoder.text_embed.word_embed.weight": "beit3.text_embed.weight",
    "encoder.text_embed.pos_embed": TEXT_POSITIONS,
    "mim_head.weight": "mim_head.weight",
    "mim_head.bias": "mim_head.bias",
    "mlm_head.weight": "mlm_head.weight",
    "mlm_head.bias": "mlm_head.bias",
} | {name: name for name in DUAL_PARTS}
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
    """Return the places of a parameter of ours: one per branch that it is written to, none if it is left out, by the
    role or as a part that no dual encoder of theirs has.

    shapes: of all parameters of the network. Raises ValueError for an unknown name.
    """
    if "logit_scale" in shapes and name.startswith(NOT_IN_DUAL):
        return []
    if name in _OUTSIDE_BLOCKS or name.startswith(TASK_PARTS):
        return [Place(_OUTSIDE_BLOCKS.get(name, name))]
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
    """Return the branches, A and B, that an expert of ours is written to."""
    if expert == "shared":
        return list(BRANCHES)
    if has_vl_expert and role == "fusion":
        return list(BRANCHES) if expert == "vision_language" else []
    return [branch for branch, modality in BRANCHES.items() if modality == expert]
