"""torchscale's BEiT3, the published implementation."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tests.support.beside_cpu_torch import import_beside_cpu_torch


def build_torchscale_beit3(
    *, dim: int, depth: int, num_heads: int, ffn_dim: int, image_size: int, patch_size: int, vocab_size: int,
    max_text_positions: int, normalize_output: bool = True,
) -> nn.Module:  # fmt: skip
    """Return a BEiT3 in evaluation mode; max_text_positions includes the two unused rows."""
    config = import_beside_cpu_torch("torchscale.architecture.config").EncoderConfig(
        multiway=True,
        layernorm_embedding=False,
        normalize_output=normalize_output,
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
    model: nn.Module = import_beside_cpu_torch("torchscale.model.BEiT3").BEiT3(config)
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
    forbidden: Tensor | None = None,
) -> Tensor:
    """Return hidden states (B, S, D), image tokens first. forbidden: (S, S), 1 where a row's token must not see the
    column's."""
    with torch.no_grad():
        outputs = model(
            textual_tokens=ids,
            visual_tokens=images,
            text_padding_position=padding,
            vision_masked_position=image_mask,
            attn_mask=forbidden,
        )
    states: Tensor = outputs["encoder_out"]
    return states
