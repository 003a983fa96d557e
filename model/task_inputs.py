"""Inputs of the networks of tasks, from pixels and word ids.

Shapes: B samples, V image tokens, L text tokens.
"""

import torch
from torch import Tensor

from model.multiway import MultiwayInputs


def pair_inputs(
    images: Tensor,
    ids: Tensor,
    padding: Tensor,
    patch_size: int,
    lengths: tuple[int, ...] | None = None,
    causal: bool = False,
) -> MultiwayInputs:
    """Return the inputs of a VqaNetwork, or causal those of a CaptionNetwork: whole images, each with its text.

    images: (B, 3, H, W) normalised pixels; ids: (B, L) word ids; padding: (B, L) bool, True = padding; lengths: number
    of tokens of each text, known to the host, see MultiwayInputs; causal: whether words see only those before them.
    """
    return MultiwayInputs(
        images=images,
        image_mask=_nothing_hidden(images, patch_size),
        caption_ids=ids,
        caption_padding=padding,
        text_ids=ids[:0],
        text_padding=padding[:0],
        causal_captions=causal,
        caption_lengths=lengths,
        text_lengths=(),
    )


def twin_pair_inputs(
    images: Tensor,
    second_images: Tensor,
    ids: Tensor,
    padding: Tensor,
    patch_size: int,
    lengths: tuple[int, ...] | None = None,
) -> MultiwayInputs:
    """Return the inputs of an Nlvr2Network: each sentence with its first image, then each with its second.

    Arguments as for `pair_inputs`; second_images like images.
    """
    twice = None if lengths is None else lengths * 2
    both = torch.cat([images, second_images])
    return pair_inputs(both, ids.repeat(2, 1), padding.repeat(2, 1), patch_size, twice)


def image_inputs(images: Tensor, patch_size: int) -> MultiwayInputs:
    """Return the inputs of a ClassifyNetwork: whole images (B, 3, H, W) alone."""
    no_ids = torch.zeros(0, 1, dtype=torch.int64, device=images.device)
    return MultiwayInputs(
        images=images,
        image_mask=_nothing_hidden(images, patch_size),
        caption_ids=no_ids,
        caption_padding=no_ids.bool(),
        text_ids=no_ids,
        text_padding=no_ids.bool(),
        caption_lengths=(),
        text_lengths=(),
    )


def _nothing_hidden(images: Tensor, patch_size: int) -> Tensor:
    num_patches = (images.shape[2] // patch_size) * (images.shape[3] // patch_size)
    return torch.zeros(len(images), num_patches, dtype=torch.bool, device=images.device)
