"""Microsoft's dual encoder, written from their published code on torchscale's BEiT3."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.config import MultiwayConfig
from tests.support.torchscale_beit3 import build_torchscale_beit3


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
