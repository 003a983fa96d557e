"""The captioner's attention and its cache. CPU, seconds."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.captioner import greedy_captions, prefill
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model

MASK_ID = CONFIG.vocab_size - 1
VARIANTS = pytest.mark.parametrize("changes", [{}, {"attention": "decoupled", "num_vl_layers": 0}], ids=str)


def captioned(images: Tensor, caption_ids: Tensor) -> MultiwayInputs:
    num_pairs = len(images)
    return replace(
        tiny_inputs(0, num_pairs, 0),
        images=images,
        image_mask=torch.zeros(num_pairs, (images.shape[-1] // CONFIG.patch_size) ** 2, dtype=torch.bool),
        caption_ids=caption_ids,
        caption_padding=torch.zeros_like(caption_ids, dtype=torch.bool),
        causal_captions=True,
    )


def full_states(model: MaskedDataModel, images: Tensor, caption_ids: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        states = model.encode(captioned(images, caption_ids))
    return states.images, states.captions


@VARIANTS
def test_image_states_do_not_see_the_caption(changes: dict[str, Any]) -> None:
    model, images = tiny_model(**changes), torch.randn(3, 3, 32, 32)
    one, other = (torch.randint(4, CONFIG.vocab_size, (3, 8)) for _ in range(2))
    assert torch.equal(full_states(model, images, one)[0], full_states(model, images, other)[0])


@VARIANTS
def test_a_caption_token_sees_its_image_and_the_tokens_before_it(changes: dict[str, Any]) -> None:
    model, images = tiny_model(**changes), torch.randn(1, 3, 32, 32)
    ids = torch.randint(4, CONFIG.vocab_size - 1, (1, 8))
    changed = ids.clone()
    changed[0, 5] += 1
    before, after = full_states(model, images, ids)[1], full_states(model, images, changed)[1]
    assert torch.equal(before[0, :5], after[0, :5])
    assert ((before[0, 5:] - after[0, 5:]).abs().amax(dim=1) > 1e-4).all()
    other_image = full_states(model, images + 1, ids)[1]
    assert ((before - other_image).abs().amax(dim=2) > 1e-4).all()


@VARIANTS
@pytest.mark.parametrize("steps", [[1] * 9, [3, 1, 4, 1]], ids=str)
@pytest.mark.parametrize("image_size", [32, 48])
def test_decoding_step_by_step_equals_decoding_at_once(
    changes: dict[str, Any], steps: list[int], image_size: int
) -> None:
    model, images = tiny_model(**changes), torch.randn(3, 3, image_size, image_size)
    ids = torch.randint(4, CONFIG.vocab_size, (3, sum(steps)))
    cache = prefill(model, images)
    states = [model.encoder.decode(part, cache) for part in ids.split(steps, dim=1)]
    assert cache.num_caption_tokens == sum(steps)
    torch.testing.assert_close(torch.cat(states, dim=1), full_states(model, images, ids)[1], atol=1e-5, rtol=0)


def test_dropped_tokens_leave_no_trace() -> None:
    model, images = tiny_model(), torch.randn(2, 3, 32, 32)
    ids = torch.randint(4, CONFIG.vocab_size, (2, 3))
    cache = prefill(model, images)
    model.encoder.decode(torch.cat([ids, torch.full((2, 2), MASK_ID)], dim=1), cache)
    cache.drop_last(2)
    more = torch.randint(4, CONFIG.vocab_size, (2, 2))
    states = model.encoder.decode(more, cache)
    expected = full_states(model, images, torch.cat([ids, more], dim=1))[1][:, 3:]
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_greedy_captions_are_those_found_without_a_cache() -> None:
    model, images = tiny_model(seed=3), torch.randn(6, 3, 32, 32)
    begin, pad = 0, 1
    endless = greedy_captions(model, images, 10, begin_id=begin, end_id=-1, pad_id=pad, mask_id=MASK_ID)
    # the word that ends the captions at the largest number of different positions; argmax is 0 without that word
    firsts = {word: (endless == word).int().argmax(1) for word in endless[:, 1:9].unique().tolist()}
    end = max(firsts, key=lambda word: len(firsts[word].unique()))
    found = greedy_captions(model, images, 10, begin_id=begin, end_id=end, pad_id=pad, mask_id=MASK_ID)
    lengths = set()
    for image, caption in zip(images, found, strict=True):
        ids = [begin]
        while len(ids) < 10 and ids[-1] != end:
            states = full_states(model, image[None], torch.tensor([[*ids, MASK_ID]]))[1]
            ids.append(int(model.mlm_head(states[0, -1]).argmax()))
        assert caption[: len(ids)].tolist() == ids
        assert (caption[len(ids) :] == pad).all()
        lengths.add(len(ids))
    assert len(lengths) > 1
