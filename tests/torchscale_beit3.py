"""torchscale's BEiT3, the published implementation, importable without torchvision.

Its only use of timm is `drop_path`, which is given to it here: timm itself would pull in a CUDA build of torchvision.
"""

import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def _drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    assert not training or not probability, "the reference runs in evaluation mode"
    return x


def _import_torchscale() -> tuple[Any, Any]:
    try:
        import timm.models.layers  # noqa: F401
    except ImportError:
        layers = types.ModuleType("timm.models.layers")
        layers.drop_path = _drop_path  # type: ignore[attr-defined]
        stubs = {"timm": types.ModuleType("timm"), "timm.models": types.ModuleType("timm.models")}
        sys.modules.update({**stubs, "timm.models.layers": layers})
    from torchscale.architecture.config import EncoderConfig
    from torchscale.model.BEiT3 import BEiT3

    return EncoderConfig, BEiT3


def build_torchscale_beit3(
    *, dim: int, depth: int, num_heads: int, ffn_dim: int, image_size: int, patch_size: int, vocab_size: int,
    max_text_positions: int,
) -> nn.Module:  # fmt: skip
    """A BEiT3 in evaluation mode; max_text_positions counts its two unused rows."""
    encoder_config, beit3 = _import_torchscale()
    config = encoder_config(
        multiway=True,
        layernorm_embedding=False,
        normalize_output=True,
        no_output_layer=True,
        img_size=image_size,
        patch_size=patch_size,
        vocab_size=vocab_size,
        encoder_embed_dim=dim,
        encoder_attention_heads=num_heads,
        encoder_ffn_embed_dim=ffn_dim,
        encoder_layers=depth,
        max_source_positions=max_text_positions,
    )
    model: nn.Module = beit3(config)
    return model.eval()


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the `beit3.` part of a converted file; fail on any missing or unexpected key."""
    prefix = "beit3."
    part = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    model.load_state_dict(part, strict=True)


def hidden_states(
    model: nn.Module,
    *,
    ids: Tensor | None = None,
    images: Tensor | None = None,
    padding: Tensor | None = None,
    image_mask: Tensor | None = None,
) -> Tensor:
    """(B, S, D), image tokens first."""
    with torch.no_grad():
        outputs = model(
            textual_tokens=ids,
            visual_tokens=images,
            text_padding_position=padding,
            vision_masked_position=image_mask,
        )
    states: Tensor = outputs["encoder_out"]
    return states
