"""Captions from images, one word after the other (BEiT-3, figure 3 e): greedily, or by beam search.

The network was trained to predict masked words, not next words. So each step feeds the newest word and a mask token
after it, reads the next word from the mask token's state, and drops the mask token's keys and values.

The score of a caption is the sum of its log probabilities divided by length ** length_penalty; its length counts every
token, <s> and </s> too. Source: unilm/beit3 engine_for_finetuning.py. Two differences: the words that CaptionRules
excludes, of which Microsoft's code excludes none, and a caption that reaches the maximum length keeps its last word.

A network is a MaskedDataModel, one that was finetuned for captions, or a dual encoder that went on with masked data
modeling and so has a head for words.

Shapes: P images, K beams, L tokens of a caption so far, W words of the vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.kv_cache import KeyValueCache
from model.multiway import MultiwayInputs
from model.networks import WordNetwork


@dataclass(frozen=True)
class CaptionRules:
    """The special tokens of captions, and how their words are chosen."""

    begin_id: int
    end_id: int
    pad_id: int
    mask_id: int
    never_ids: tuple[int, ...] = ()
    """Words that no caption holds. Their probability is not given to the others, so that scores do not depend on it."""
    max_length: int = 32
    """Most tokens of a caption, <s> and </s> included."""
    min_words: int = 0
    """Fewest tokens between <s> and </s>."""
    num_beams: int = 3
    """Number of captions that a beam search follows; 1: greedy."""
    length_penalty: float = 0.6
    """Exponent of the length; larger values favor longer captions. At least 0."""


class Captions(NamedTuple):
    """A caption per image."""

    ids: Tensor
    """(P, L) int64: begin, words, end if it was reached, padding."""
    scores: Tensor
    """(P,) float32"""


@torch.no_grad()
def prefill(model: WordNetwork, images: Tensor, num_beams: int = 1) -> KeyValueCache:
    """Return the keys and values of (P, 3, H, W) images, each the beginning of a pair with `num_beams` captions."""
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
    cache = KeyValueCache(config.depth, num_beams)
    model.encoder(inputs, cache=cache)
    return cache


def captions(model: WordNetwork, images: Tensor, rules: CaptionRules) -> Captions:
    """Return a caption for each of (P, 3, H, W) images, by beam search, or greedily if there is one beam."""
    return (greedy_captions if rules.num_beams == 1 else beam_captions)(model, images, rules)


@torch.no_grad()
def greedy_captions(model: WordNetwork, images: Tensor, rules: CaptionRules) -> Captions:
    """Return a caption for each of (P, 3, H, W) images, by taking the likeliest word at every step."""
    cache = prefill(model, images)
    ids = torch.full((len(images), 1), rules.begin_id, dtype=torch.int64, device=images.device)
    totals = torch.zeros(len(images), device=images.device)
    lengths = torch.ones_like(totals)
    is_done = torch.zeros_like(totals, dtype=torch.bool)
    while ids.shape[1] < rules.max_length and not is_done.all():
        log_probs, words = _next_word_log_probs(model, ids[:, -1:], cache, rules)[:, 0].max(dim=-1)
        totals += log_probs.masked_fill(is_done, 0)
        lengths += ~is_done
        # captions that have ended go on with padding until the last one ends: the cache keeps equal lengths
        words = words.masked_fill(is_done, rules.pad_id)
        ids = torch.cat([ids, words[:, None]], dim=1)
        is_done |= words == rules.end_id
    return Captions(ids, totals / lengths**rules.length_penalty)


@torch.no_grad()
def beam_captions(model: WordNetwork, images: Tensor, rules: CaptionRules) -> Captions:
    """Return the caption with the best score that a beam search finds for each of (P, 3, H, W) images.

    Each step keeps the K likeliest captions that go on. One that ends is a candidate for the result if it is at least
    as likely as the last of them. An image is done if no caption that goes on can reach the score of its best.
    """
    num_images, device = len(images), images.device
    cache = prefill(model, images, rules.num_beams)
    beams = torch.full((num_images, rules.num_beams, 1), rules.begin_id, dtype=torch.int64, device=device)
    totals = torch.full((num_images, rules.num_beams), -torch.inf, device=device)
    totals[:, 0] = 0  # all beams are equal at first, and only one may count
    best = Captions(beams[:, 0], totals.new_full((num_images,), -torch.inf))
    while beams.shape[2] < rules.max_length:
        log_probs = _next_word_log_probs(model, beams[..., -1], cache, rules)
        candidates = totals[..., None] + log_probs  # (P, K, W)
        ended = candidates[..., rules.end_id].clone()
        candidates[..., rules.end_id] = -torch.inf
        totals, places = candidates.flatten(1).topk(rules.num_beams)  # sorted, the likeliest first
        parents, words = places // candidates.shape[2], places % candidates.shape[2]
        length_factor = (beams.shape[2] + 1) ** rules.length_penalty
        ended = ended.masked_fill(ended < totals[:, -1:], -torch.inf)
        best = _better(best, beams, rules.end_id, ended / length_factor, rules)
        beams = torch.cat([beams.take_along_dim(parents[..., None], dim=1), words[..., None]], dim=2)
        # a total never grows, and dividing it by the largest length gives the best score that it can lead to
        if (best.scores >= totals[:, 0] / rules.max_length**rules.length_penalty).all():
            return best
        cache.reorder_beams(parents)
    return _better(best, beams[..., :-1], beams[..., -1], totals / rules.max_length**rules.length_penalty, rules)


def _next_word_log_probs(model: WordNetwork, newest: Tensor, cache: KeyValueCache, rules: CaptionRules) -> Tensor:
    """Return the log probabilities of the next words, (P, K, W) float32, after newest words (P, K)."""
    masks = torch.full_like(newest, rules.mask_id)
    states = model.encoder.decode(torch.stack([newest, masks], dim=1), cache)
    cache.drop_last(1)  # the mask token
    log_probs = model.mlm_head(states[:, 1]).float().log_softmax(dim=-1)
    log_probs[..., list(rules.never_ids)] = -torch.inf
    if cache.num_caption_tokens <= rules.min_words:  # they are <s> and the words so far
        log_probs[..., rules.end_id] = -torch.inf
    return log_probs


def _better(best: Captions, beams: Tensor, last: Tensor | int, scores: Tensor, rules: CaptionRules) -> Captions:
    """Return for each image the best of its best caption so far and its beams (P, K, L), each with one more word.

    last: that word, or (P, K) one for each; scores: (P, K) of the captions with it.
    """
    top_scores, top = scores.max(dim=1)
    words = torch.broadcast_to(torch.as_tensor(last, device=beams.device), scores.shape)
    longer = torch.cat([beams, words[..., None]], dim=2).take_along_dim(top[:, None, None], dim=1)[:, 0]  # (P, L + 1)
    shorter = torch.nn.functional.pad(best.ids, (0, longer.shape[1] - best.ids.shape[1]), value=rules.pad_id)
    is_better = top_scores > best.scores
    return Captions(torch.where(is_better[:, None], longer, shorter), torch.maximum(best.scores, top_scores))
