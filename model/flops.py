"""Floating-point operations of the network, computed from its sizes.

Only matrix products count, with 2 operations per multiply-add. For S tokens, D dim, F ffn dim, per block:

    qkv and proj          2 S (3 D D + D D) = 8 S D D
    scores and values     2 S S D + 2 S S D = 4 S S D
    fc1 and fc2           2 S (D F + F D)   = 4 S D F

The patch projection has 2 (V - 1) (3 p p) D for V - 1 patches of p x p pixels; a head has 2 M D C for M masked
positions and C classes. A token costs the same in every expert. Backward costs twice as much as forward: once for the
gradient of the input and once for that of the weight; pixels need no gradient.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import MultiwayConfig, Use


def forward_flops(config: MultiwayConfig, use: Use, num_text_tokens: int) -> int:
    """Return the operations of the encoder on one sample; num_text_tokens: of the text or caption, ignored for
    images."""
    image_tokens = 0 if use == "text" else config.num_image_tokens
    text_tokens = 0 if use == "image" else num_text_tokens
    num_tokens = image_tokens + text_tokens
    dim = config.dim
    per_block = 8 * num_tokens * dim**2 + 4 * num_tokens**2 * dim + 4 * num_tokens * dim * config.ffn_dim
    return config.depth * per_block + (_patch_projection_flops(config) if image_tokens else 0)


def _patch_projection_flops(config: MultiwayConfig) -> int:
    """Return the operations of the patch projection for one image."""
    return 2 * config.num_patches * 3 * config.patch_size**2 * config.dim


@dataclass(frozen=True)
class StepSize:
    """The number of samples and tokens in a step, padding excluded."""

    num_images: int
    """Number of image-only samples."""
    caption_lengths: Sequence[int]
    """Number of tokens of each pair's caption."""
    text_lengths: Sequence[int]
    """Number of tokens of each text."""
    masked_patches: int
    """Number of positions per image that reach the head, including those of whole images, which have no label."""
    masked_words: int
    """Number of masked words in all captions and texts."""

    def num_tokens(self, config: MultiwayConfig) -> int:
        """Return the number of rows of the packed matrix."""
        image_tokens = (self.num_images + len(self.caption_lengths)) * config.num_image_tokens
        return image_tokens + sum(self.caption_lengths) + sum(self.text_lengths)


def training_flops(config: MultiwayConfig, step: StepSize) -> int:
    """Return the operations of a step's forward and backward.

    Model operations, as in a model FLOPs utilization: the recomputation of activation checkpointing does not count, nor
    does the visual tokenizer.
    """
    encoder = step.num_images * forward_flops(config, "image", 0)
    for length, count in Counter(step.caption_lengths).items():
        encoder += count * forward_flops(config, "pair", length)
    for length, count in Counter(step.text_lengths).items():
        encoder += count * forward_flops(config, "text", length)
    num_images = step.num_images + len(step.caption_lengths)
    patches = num_images * step.masked_patches
    heads = 2 * config.dim * (patches * config.num_visual_tokens + step.masked_words * config.vocab_size)
    return 3 * (encoder + heads) - num_images * _patch_projection_flops(config)
