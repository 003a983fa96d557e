"""Captions from images, one word after the other (BEiT-3, figure 3 e).

The network was trained to predict masked words, not next words. So each step feeds the newest word and a mask token
after it, reads the next word from the mask token's state, and drops the mask token's keys and values.
Source: unilm/beit3 engine_for_finetuning.py.
"""

import torch
from torch import Tensor

from model.kv_cache import KeyValueCache
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs


@torch.no_grad()
def prefill(model: MaskedDataModel, images: Tensor) -> KeyValueCache:
    """Return the keys and values of (P, 3, H, W) images, each the beginning of a pair."""
    config, num_pairs = model.encoder.config, len(images)
    num_patches = (images.shape[2] // config.patch_size) * (images.shape[3] // config.patch_size)
    no_ids = torch.zeros(num_pairs, 0, dtype=torch.int64, device=images.device)
    inputs = MultiwayInputs(
        images=images,
        image_mask=torch.zeros(num_pairs, num_patches, dtype=torch.bool, device=images.device),
        caption_ids=no_ids,
        caption_padding=no_ids.bool(),
        text_ids=no_ids[:0],
        text_padding=no_ids[:0].bool(),
    )
    cache = KeyValueCache(config.depth)
    model.encoder(inputs, cache=cache)
    return cache


@torch.no_grad()
def greedy_captions(
    model: MaskedDataModel, images: Tensor, max_length: int, *, begin_id: int, end_id: int, pad_id: int, mask_id: int
) -> Tensor:
    """Return a caption for each of (P, 3, H, W) images, by taking the likeliest word at every step.

    (P, n <= max_length) ids: begin, words, end, then padding.
    """
    cache = prefill(model, images)
    captions = torch.full((len(images), 1), begin_id, dtype=torch.int64, device=images.device)
    masks = torch.full_like(captions, mask_id)
    is_done = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    while captions.shape[1] < max_length and not is_done.all():
        states = model.encoder.decode(torch.cat([captions[:, -1:], masks], dim=1), cache)
        cache.drop_last(1)  # the mask token
        words = model.mlm_head(states[:, 1]).argmax(dim=-1).masked_fill(is_done, pad_id)
        captions = torch.cat([captions, words[:, None]], dim=1)
        # captions that have ended go on with padding until the last one ends: the cache keeps equal lengths
        is_done |= words == end_id
    return captions
