"""Embeddings of pixels and word ids, in the pieces that `model.kernels.token_assembly` puts together.

Images and texts have position tables of their own, as in the released checkpoints: a patch's position is a place in a
grid, a word's a place in a sentence. A caption's positions start at 0 like those of a text, although it follows an
image.

Shapes: B samples, V image tokens (patches and the class token), R words of captions and texts, D dim.
"""

import math

import torch
from torch import Tensor, nn

from model.kernels.token_assembly import ImagePieces, TextPieces

POSITION_OFFSET = 2
"""Number of unused leading rows of both position tables. fairseq counts positions from 2; the rows are kept so that
released checkpoints survive a round trip to the bit and parameter counts equal the published ones."""


def interpolate_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a position table for another number of patches, (R', D), float32 if it is interpolated.

    positions: (R, D): unused rows, class token, then a square grid of patches in row-major order; grid: patches down
    and across. Bicubic, as Microsoft's finetuning code does on loading.
    """
    kept, patches = positions.split([POSITION_OFFSET + 1, len(positions) - POSITION_OFFSET - 1])
    side = math.isqrt(len(patches))
    if (side, side) == grid:
        return positions
    image = patches.float().unflatten(0, (1, side, side)).permute(0, 3, 1, 2)  # (1, D, side, side)
    image = nn.functional.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([kept.float(), image[0].flatten(1).T])


class PatchProjection(nn.Conv2d):
    """A convolution whose patches do not overlap, computed as one matrix product.

    A Conv2d still, so that its weight has the shape and name of the released checkpoints.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, V - 1, D)"""
        down, across = self.kernel_size
        pixels = images.unflatten(3, (-1, across)).unflatten(2, (-1, down))  # (B, 3, rows, p, columns, p)
        # channels, then rows, then columns of a patch: the order of the convolution's weight
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, V - 1, 3 * p * p)
        return nn.functional.linear(pixels, self.weight.flatten(1), self.bias)


class VisionEmbedding(nn.Module):
    """The embeddings of images: projected patches, class and mask token, learned absolute positions."""

    def __init__(self, dim: int, image_size: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        num_patches = (image_size // patch_size) ** 2
        self.patch_embed = PatchProjection(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + 1 + num_patches, dim))

    def forward(self, images: Tensor, image_mask: Tensor) -> ImagePieces:
        """Return the pieces of images (B, 3, H, W), normalised; positions are interpolated to their size.

        image_mask: (B, V - 1) bool, checked for its size only. Raises ValueError if patch_size does not divide the
        images or if the mask is for another size.
        """
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images are {height} x {width}; resize them to multiples of patch_size {self.patch_size}")
        grid = (height // self.patch_size, width // self.patch_size)
        if image_mask.shape[1] != grid[0] * grid[1]:
            raise ValueError(f"image_mask has {image_mask.shape[1]} patches, the images have {grid[0]} x {grid[1]}")
        patches = self.patch_embed(images)
        positions = interpolate_positions(self.pos_embed, grid)[POSITION_OFFSET:]
        # copies: ZeRO-3 frees the parameters when this returns, and a view would read freed memory
        cls_token, mask_token, positions = (
            piece.to(patches.dtype, copy=True)
            for piece in (self.cls_token.flatten(), self.mask_token.flatten(), positions)
        )
        return ImagePieces(patches, cls_token, mask_token, positions)


class TextEmbedding(nn.Module):
    """The embeddings of captions and texts: words and learned absolute positions."""

    def __init__(self, dim: int, vocab_size: int, max_text_length: int):
        super().__init__()
        self.max_text_length = max_text_length
        self.word_embed = nn.Embedding(vocab_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + max_text_length, dim))

    def forward(self, ids: Tensor, num_positions: int, first_position: int = 0) -> TextPieces:
        """Return the pieces of words (R,), captions and texts alike.

        num_positions: of the longest text; first_position: of every text's first word, for decoding. Raises ValueError
        if a text is longer than max_text_length.
        """
        end = first_position + num_positions
        if end > self.max_text_length:
            raise ValueError(f"a text of {end} tokens exceeds max_text_length {self.max_text_length}; shorten it")
        positions = self.pos_embed[POSITION_OFFSET + first_position : POSITION_OFFSET + end]
        words = self.word_embed(ids)
        return TextPieces(words, positions.to(words.dtype, copy=True))  # a copy, as above
