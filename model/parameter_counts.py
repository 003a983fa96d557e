"""Numbers of parameters, by part of the network and by use; nothing is allocated."""

from collections.abc import Mapping

import torch

from model.config import Heads, MultiwayConfig, Use
from model.networks import build_network

ENCODER_PARTS = (
    "vision embedding",
    "text embedding",
    "attention",
    "vision experts",
    "language experts",
    "vision-language experts",
    "norms",
)
HEADS = {
    "mim_head.": "mim head",
    "mlm_head.": "mlm head",
    "vision_head.": "vision head",
    "language_head.": "language head",
    "logit_scale": "logit scale",
    "logit_bias": "logit bias",
    "pooler.": "pooler",
    "fc_norm.": "norm of the head",
    "head.": "task head",
}
"""Parts outside of the encoder by the beginnings of their parameters' names. A network has some of them."""


def parameter_shapes(config: MultiwayConfig, heads: Heads | None = None) -> dict[str, torch.Size]:
    """Return the shape of every parameter by its name in files. heads: as for `build_network`."""
    with torch.device("meta"):
        model = build_network(config, heads)
    return {name: parameter.shape for name, parameter in model.state_dict().items()}


def count_by_part(config: MultiwayConfig, heads: Heads | None = None) -> dict[str, int]:
    """Return the number of parameters of each of ENCODER_PARTS and of the HEADS that the network has; heads: as above.

    Attention and experts are their matrices and biases, as in BEiT-3's table 2; norms are a part of their own.
    """
    counts = dict.fromkeys(ENCODER_PARTS, 0)
    for name, shape in parameter_shapes(config, heads).items():
        part = _part(name)
        counts[part] = counts.get(part, 0) + shape.numel()
    return counts


def count_activated(config: MultiwayConfig, use: Use) -> int:
    """Return the number of parameters of the encoder, without heads, that a sample of this kind uses."""
    shapes = parameter_shapes(config)
    return sum(shape.numel() for name, shape in shapes.items() if _is_activated(name, use, shapes))


def _part(name: str) -> str:
    for prefix, part in HEADS.items():
        if name.startswith(prefix):
            return part
    if "norm" in name:
        return "norms"
    if ".attn." in name:
        return "attention"
    for prefix, part in {"encoder.vision_embed.": "vision embedding", "encoder.text_embed.": "text embedding"}.items():
        if name.startswith(prefix):
            return part
    expert = name.split(".experts.")[1].split(".")[0]
    return f"{expert.replace('_', '-')} experts"


def _is_activated(name: str, use: Use, shapes: Mapping[str, torch.Size]) -> bool:
    words = name.split(".")
    if words[0] != "encoder":
        return False
    if words[1] in ("vision_embed", "text_embed"):
        return words[1] in {"image": ("vision_embed",), "text": ("text_embed",)}.get(use, words)
    expert = next(word for word in words if word in ("shared", "vision", "language", "vision_language"))
    if expert == "shared":
        return True
    if use == "image":
        return expert == "vision"
    if use == "text":
        return expert == "language"
    has_vl_expert = name.replace(f".{expert}.", ".vision_language.") in shapes
    return expert == "vision_language" or not has_vl_expert
