"""Floating-point operations of a forward, from the sizes alone.

Counted are the matrix products, 2 operations a multiply-add. For S tokens, D dim, F ffn dim, per block:

    qkv and proj          2 S (3 D D + D D) = 8 S D D
    scores and values     2 S S D + 2 S S D = 4 S S D
    fc1 and fc2           2 S (D F + F D)   = 4 S D F

and the patch projection, 2 V (3 p p) D for V patches of p x p pixels. Heads see masked positions only and are left out.
An expert costs a token the same whichever it is. A backward costs twice its forward.
"""

from model.config import MultiwayConfig
from model.parameter_counts import Use


def forward_flops(config: MultiwayConfig, use: Use, num_text_tokens: int) -> int:
    """Operations of the encoder on one sample; num_text_tokens: of the text or caption, unused for images."""
    image_tokens = 0 if use == "text" else config.num_image_tokens
    text_tokens = 0 if use == "image" else num_text_tokens
    num_tokens = image_tokens + text_tokens
    dim = config.dim
    per_block = 8 * num_tokens * dim**2 + 4 * num_tokens**2 * dim + 4 * num_tokens * dim * config.ffn_dim
    num_patches = image_tokens - 1 if image_tokens else 0
    return config.depth * per_block + 2 * num_patches * 3 * config.patch_size**2 * dim
