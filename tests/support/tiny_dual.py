"""A tiny dual encoder, and Microsoft's, written from their published code on torchscale's BEiT3."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model.config import NO_FURTHER_HEADS, DualHeads, MultiwayConfig
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from tests.support.tiny import CONFIG
from tests.support.torchscale_beit3 import build_torchscale_beit3


def tiny_dual(heads: DualHeads = NO_FURTHER_HEADS, seed: int = 0, **changes: Any) -> DualEncoder:
    """Return a dual encoder in which every parameter is random and large enough to matter."""
    config = replace(CONFIG, **changes)
    network = DualEncoder(config, heads)
    init_weights(network, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


class TheirDualEncoder(nn.Module):
    """BEiT3ForRetrieval of unilm/beit3 modeling_finetune.py, without its loss."""

    def __init__(self, config: MultiwayConfig):
        super().__init__()
        self.beit3 = build_torchscale_beit3(
            dim=config.dim,
            depth=config.depth,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vocab_size=config.vocab_size,
            max_text_positions=config.max_text_length + 2,
        )
        self.language_head = nn.Linear(config.dim, config.dim, bias=False)
        self.vision_head = nn.Linear(config.dim, config.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.ones([]) * torch.log(torch.tensor(1 / 0.07)))

    @torch.no_grad()
    def features(self, images: Tensor, ids: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised features of images and of texts. padding: True where there is none of the text."""
        vision = self.beit3(textual_tokens=None, visual_tokens=images)["encoder_out"][:, 0]
        text = self.beit3(textual_tokens=ids, visual_tokens=None, text_padding_position=padding)["encoder_out"][:, 0]
        return (
            nn.functional.normalize(self.vision_head(vision), dim=-1),
            nn.functional.normalize(self.language_head(text), dim=-1),
        )


def their_dual(config: MultiwayConfig, state: Mapping[str, Tensor]) -> TheirDualEncoder:
    """Return their network with the tensors of a file; any missing or unexpected key fails."""
    network = TheirDualEncoder(config)
    network.load_state_dict(state, strict=True)
    return network.eval()
