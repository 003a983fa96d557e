"""From pixels and word ids to the packed rows.

Shapes: B samples, G patches along a side, V image tokens (G * G + 1), S text tokens, D dim.
"""

import math

import torch
from torch import Tensor, nn

POSITION_OFFSET = 2
"""Unused leading rows of both position tables. fairseq counts positions from 2; the rows are kept so that released
checkpoints survive a round trip to the bit and parameter counts equal the published ones."""


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """A position table for another number of patches.

    positions: (R, D): unused rows, class token, then a square grid of patches in row-major order; grid: patches down
    and across. Returns (R', D), float32 where it interpolates. Bicubic, as Microsoft's finetuning code does on loading.
    """
    kept, patches = positions.split([POSITION_OFFSET + 1, len(positions) - POSITION_OFFSET - 1])
    side = math.isqrt(len(patches))
    if (side, side) == grid:
        return positions
    image = patches.float().unflatten(0, (1, side, side)).permute(0, 3, 1, 2)  # (1, D, side, side)
    image = nn.functional.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([kept.float(), image[0].flatten(1).T])


class VisionEmbedding(nn.Module):
    """Patches, class token in front, learned absolute positions."""

    def __init__(self, dim: int, image_size: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + 1 + num_patches, dim))

    def forward(self, images: Tensor, image_mask: Tensor) -> Tensor:
        """images: (B, 3, H, W), normalised; image_mask: (B, V - 1) bool, True = hidden.

        Returns (B, V, D); positions are interpolated where the size is not that of training. Raises ValueError where
        patches do not divide the images or the mask is for another size.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images are {height} x {width}; resize them to multiples of patch_size {self.patch_size}")
        grid = (height // self.patch_size, width // self.patch_size)
        if image_mask.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"image_mask has {image_mask.shape[1]} patches, the images have {grid[0]} x {grid[1]}")
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        # torch.where keeps the mask token in the graph of every step, also when nothing is masked (ZeRO-3 needs it)
        patches = torch.where(image_mask[..., None], self.mask_token.to(patches.dtype), patches)
        tokens = torch.cat([self.cls_token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)
        return tokens + interpolate_positions(self.pos_embed, grid)[POSITION_OFFSET:].to(tokens.dtype)


class TextEmbedding(nn.Module):
    """Word embeddings and learned absolute positions; a caption's positions start at 0 like a text's."""

    def __init__(self, dim: int, vocab_size: int, max_text_length: int):
        super().__init__()
        self.max_text_length = max_text_length
        self.word_embed = nn.Embedding(vocab_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + max_text_length, dim))

    def forward(self, caption_ids: Tensor, text_ids: Tensor, first_position: int = 0) -> tuple[Tensor, Tensor]:
        """(P, C) and (T, L) ids -> (P, C, D) and (T, L, D). Both in one call, so that ZeRO-3 gathers the table once.

        first_position: of the captions. Raises ValueError where a text is longer than max_text_length.
        """
        longest = max(first_position + caption_ids.shape[1], text_ids.shape[1])
        if longest > self.max_text_length:
            raise ValueError(f"a text of {longest} tokens exceeds max_text_length {self.max_text_length}; shorten it")
        words = self.word_embed(torch.cat([caption_ids.flatten(), text_ids.flatten()]))
        captions, texts = words.split([caption_ids.numel(), text_ids.numel()])
        positions = self.pos_embed[POSITION_OFFSET:]
        captions = captions.unflatten(0, caption_ids.shape) + positions[first_position:][: caption_ids.shape[1]]
        return captions, texts.unflatten(0, text_ids.shape) + positions[: text_ids.shape[1]]
