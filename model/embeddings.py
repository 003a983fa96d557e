"""From pixels and word ids to the packed rows.

Shapes: B samples, G patches along a side, V image tokens (G * G + 1), S text tokens, D dim.
"""

import torch
from torch import Tensor, nn

POSITION_OFFSET = 2
"""Unused leading rows of both position tables. fairseq counts positions from 2; the rows are kept so that released
checkpoints survive a round trip to the bit and parameter counts equal the published ones."""


class VisionEmbedding(nn.Module):
    """Patches, class token in front, learned absolute positions."""

    def __init__(self, dim: int, image_size: int, patch_size: int):
        super().__init__()
        self.image_size = image_size
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + 1 + num_patches, dim))

    def forward(self, images: Tensor, image_mask: Tensor) -> Tensor:
        """images: (B, 3, image_size, image_size), normalised; image_mask: (B, V - 1) bool, True = hidden.

        Returns (B, V, D). Raises ValueError for another image size.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images are {tuple(images.shape[-2:])}; resize them to {self.image_size} x {self.image_size}"
            )
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, G * G, D)
        # torch.where keeps the mask token in the graph of every step, also when nothing is masked (ZeRO-3 needs it)
        patches = torch.where(image_mask[..., None], self.mask_token.to(patches.dtype), patches)
        tokens = torch.cat([self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)
        return tokens + self.pos_embed[POSITION_OFFSET:]


class TextEmbedding(nn.Module):
    """Word embeddings and learned absolute positions; a caption's positions start at 0 like a text's."""

    def __init__(self, dim: int, vocab_size: int, max_text_length: int):
        super().__init__()
        self.max_text_length = max_text_length
        self.word_embed = nn.Embedding(vocab_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + max_text_length, dim))

    def forward(self, caption_ids: Tensor, text_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(P, C) and (T, L) ids -> (P, C, D) and (T, L, D). Both in one call, so that ZeRO-3 gathers the table once.

        Raises ValueError where a text is longer than max_text_length.
        """
        longest = max(caption_ids.shape[1], text_ids.shape[1])
        if longest > self.max_text_length:
            raise ValueError(f"a text of {longest} tokens exceeds max_text_length {self.max_text_length}; shorten it")
        words = self.word_embed(torch.cat([caption_ids.flatten(), text_ids.flatten()]))
        captions, texts = words.split([caption_ids.numel(), text_ids.numel()])
        positions = self.pos_embed[POSITION_OFFSET:]
        captions = captions.unflatten(0, caption_ids.shape) + positions[: caption_ids.shape[1]]
        return captions, texts.unflatten(0, text_ids.shape) + positions[: text_ids.shape[1]]
