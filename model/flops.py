"""Floating-point operations, from the sizes alone.

Counted are the matrix products, 2 operations a multiply-add. For S tokens, D dim, F ffn dim, per block:

    qkv and proj          2 S (3 D D + D D) = 8 S D D
    scores and values     2 S S D + 2 S S D = 4 S S D
    fc1 and fc2           2 S (D F + F D)   = 4 S D F

and the patch projection, 2 (V - 1) (3 p p) D for V - 1 patches of p x p pixels; a head, 2 M D C for M masked places and
C classes. An expert costs a token the same whichever it is. A backward costs twice its forward, once for the gradient
of the input and once for that of the weight; pixels need none.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import MultiwayConfig, Use


def forward_flops(config: MultiwayConfig, use: Use, num_text_tokens: int) -> int:
    """Operations of the encoder on one sample; num_text_tokens: of the text or caption, unused for images."""
    image_tokens = 0 if use == "text" else config.num_image_tokens
    text_tokens = 0 if use == "image" else num_text_tokens
    num_tokens = image_tokens + text_tokens
    dim = config.dim
    per_block = 8 * num_tokens * dim**2 + 4 * num_tokens**2 * dim + 4 * num_tokens * dim * config.ffn_dim
    return config.depth * per_block + (_patch_projection_flops(config) if image_tokens else 0)


def _patch_projection_flops(config: MultiwayConfig) -> int:
    """Of one image."""
    return 2 * config.num_patches * 3 * config.patch_size**2 * config.dim


@dataclass(frozen=True)
class StepSize:
    """What a step holds. Padding takes no part in it."""

    num_images: int
    """Image-only samples."""
    caption_lengths: Sequence[int]
    """Tokens of each pair's caption."""
    text_lengths: Sequence[int]
    masked_patches: int
    """Places of each image that reach the head, those of whole images, where nothing is asked, too."""
    masked_words: int
    """Of all captions and texts."""

    def num_tokens(self, config: MultiwayConfig) -> int:
        """Rows of the packed matrix."""
        image_tokens = (self.num_images + len(self.caption_lengths)) * config.num_image_tokens
        return image_tokens + sum(self.caption_lengths) + sum(self.text_lengths)


def training_flops(config: MultiwayConfig, step: StepSize) -> int:
    """Operations of forward and backward of a step. What activation checkpointing computes again does not count, nor
    does the visual tokenizer."""
    encoder = step.num_images * forward_flops(config, "image", 0)
    for length, count in Counter(step.caption_lengths).items():
        encoder += count * forward_flops(config, "pair", length)
    for length, count in Counter(step.text_lengths).items():
        encoder += count * forward_flops(config, "text", length)
    num_images = step.num_images + len(step.caption_lengths)
    patches = num_images * step.masked_patches
    heads = 2 * config.dim * (patches * config.num_visual_tokens + step.masked_words * config.vocab_size)
    return 3 * (encoder + heads) - num_images * _patch_projection_flops(config)
