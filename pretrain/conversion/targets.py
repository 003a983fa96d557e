"""The formats that weights are converted to, by the names that --to and cards have for them."""

from typing import Any

from pretrain.conversion.beit3_target import Beit3Target
from pretrain.conversion.safetensors_target import SafetensorsTarget
from pretrain.conversion.target import Target
from pretrain.conversion.timm_target import TimmTarget
from pretrain.conversion.transformers_target import TransformersTarget

KINDS: tuple[type[Target], ...] = (Beit3Target, TimmTarget, SafetensorsTarget, TransformersTarget)
TARGETS: dict[str, type[Target]] = {kind.name: kind for kind in KINDS}


def target_of(card: dict[str, Any]) -> Target:
    """Return the target that wrote a card."""
    return TARGETS[card["format"]](card["role"])
