"""The captioner's attention and its cache. CPU, seconds."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from model.captioner import CaptionRules, beam_captions, captions, greedy_captions, prefill
from model.config import CaptionHead
from model.masked_data_model import MaskedDataModel
from model.multiway import MultiwayInputs
from model.task_networks import CaptionNetwork
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model, tiny_task_network

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


def rules(**changes: Any) -> CaptionRules:
    return CaptionRules(begin_id=0, end_id=2, pad_id=1, mask_id=MASK_ID, **changes)


def test_greedy_captions_are_those_found_without_a_cache() -> None:
    model, images = tiny_model(seed=3), torch.randn(6, 3, 32, 32)
    begin, pad = 0, 1
    at_most = rules(max_length=10, num_beams=1, length_penalty=0)
    endless = greedy_captions(model, images, replace(at_most, end_id=-1)).ids
    # the word that ends the captions at the largest number of different positions; argmax is 0 without that word
    firsts = {word: (endless == word).int().argmax(1) for word in endless[:, 1:9].unique().tolist()}
    end = max(firsts, key=lambda word: len(firsts[word].unique()))
    found = captions(model, images, replace(at_most, end_id=end))
    lengths = set()
    for image, caption, score in zip(images, found.ids, found.scores, strict=True):
        ids, total = [begin], 0.0
        while len(ids) < 10 and ids[-1] != end:
            log_probs = next_log_probs(model, image, torch.tensor([ids]))[0]
            ids.append(int(log_probs.argmax()))
            total += float(log_probs.max())
        assert caption[: len(ids)].tolist() == ids
        assert (caption[len(ids) :] == pad).all()
        assert float(score) == pytest.approx(total, abs=1e-4)
        lengths.add(len(ids))
    assert len(lengths) > 1


def next_log_probs(model: MaskedDataModel, image: Tensor, ids: Tensor) -> Tensor:
    """Return the log probabilities of the word after each of some captions (B, L) of one image, (B, W), no cache."""
    masked = torch.cat([ids, torch.full_like(ids[:, :1], MASK_ID)], dim=1)
    states = full_states(model, image.expand(len(ids), -1, -1, -1), masked)[1]
    return model.mlm_head(states[:, -1]).detach().log_softmax(-1)


WORDS = (5, 9, 17)
"""The words of a vocabulary small enough to try every caption."""
NEVER = tuple(word for word in range(CONFIG.vocab_size) if word not in (2, *WORDS))


def best_of_all(model: MaskedDataModel, image: Tensor, asked: CaptionRules) -> tuple[list[int], float]:
    """Return the caption with the best score among all of the three words, and its score."""
    best, growing = ([0], -math.inf), dict[tuple[int, ...], float]({(0,): 0.0})
    for length in range(2, asked.max_length + 1):
        log_probs = next_log_probs(model, image, torch.tensor([list(ids) for ids in growing]))
        longer = dict[tuple[int, ...], float]()
        for (ids, total), row in zip(growing.items(), log_probs, strict=True):
            for word in (2, *WORDS):
                sum_of_all = total + float(row[word])
                is_end = word == 2
                if is_end and len(ids) - 1 < asked.min_words:
                    continue
                score = sum_of_all / length**asked.length_penalty
                if (is_end or length == asked.max_length) and score > best[1]:
                    best = ([*ids, word], score)
                if not is_end:
                    longer[(*ids, word)] = sum_of_all
        growing = longer
    return best


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("min_words", [0, 2])
def test_enough_beams_find_the_best_of_all_captions(penalty: float, min_words: int) -> None:
    model, images = tiny_model(seed=5), torch.randn(3, 3, 32, 32)
    asked = rules(never_ids=NEVER, max_length=5, min_words=min_words, num_beams=3**4, length_penalty=penalty)
    found = beam_captions(model, images, asked)
    for image, ids, score in zip(images, found.ids, found.scores, strict=True):
        expected, best = best_of_all(model, image, asked)
        assert ids.tolist()[: len(expected)] == expected and (ids[len(expected) :] == 1).all()
        assert float(score) == pytest.approx(best, abs=1e-4)


def test_more_beams_never_find_worse_captions() -> None:
    model, images = tiny_model(seed=5), torch.randn(8, 3, 32, 32)
    scores = [
        beam_captions(model, images, rules(never_ids=NEVER, max_length=6, num_beams=num_beams)).scores
        for num_beams in (1, 2, 4, 16, 3**5)
    ]
    assert all((more >= fewer - 1e-5).all() for fewer, more in pairwise(scores))
    assert (scores[-1] > scores[0] + 1e-3).any()  # or the search would prove nothing


def test_one_beam_without_a_penalty_is_greedy() -> None:
    model, images = tiny_model(seed=7), torch.randn(12, 3, 32, 32)
    asked = rules(never_ids=NEVER, max_length=9, num_beams=1, length_penalty=0)
    greedy, beam = greedy_captions(model, images, asked), beam_captions(model, images, asked)
    num_same = min(greedy.ids.shape[1], beam.ids.shape[1])
    assert torch.equal(greedy.ids[:, :num_same], beam.ids[:, :num_same])
    torch.testing.assert_close(greedy.scores, beam.scores)
    assert len((greedy.ids == 2).int().argmax(1).unique()) > 1


def test_what_an_image_gives_does_not_depend_on_those_beside_it() -> None:
    model, images = tiny_model(seed=5), torch.randn(6, 3, 32, 32)
    together = beam_captions(model, images, rules(never_ids=(0, 1, 3, MASK_ID), max_length=8))
    for image, ids, score in zip(images, *together, strict=True):
        alone = beam_captions(model, image[None], rules(never_ids=(0, 1, 3, MASK_ID), max_length=8))
        length = alone.ids.shape[1]
        assert torch.equal(alone.ids[0], ids[:length]) and (ids[length:] == 1).all()
        torch.testing.assert_close(alone.scores[0], score, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_captions_hold_no_excluded_word_and_not_fewer_words_than_asked_for(num_beams: int) -> None:
    model, images = tiny_model(seed=3), torch.randn(6, 3, 32, 32)
    free = captions(model, images, rules(max_length=10, num_beams=num_beams)).ids
    excluded = tuple({0, 1, *free[:, 1:].flatten().tolist()} - {2})
    found = captions(model, images, rules(max_length=10, num_beams=num_beams, never_ids=excluded, min_words=6)).ids
    words = found[:, 1:7]
    assert not torch.isin(words, torch.tensor([*excluded, 2])).any()


def test_the_keys_of_an_image_are_kept_once_for_all_beams() -> None:
    cache = prefill(tiny_model(), torch.randn(2, 3, 32, 32), num_beams=5)
    assert cache.num_tokens == CONFIG.num_image_tokens and cache.layers[0].num_tokens == CONFIG.num_image_tokens


@VARIANTS
def test_a_finetuned_network_decodes_by_the_states_that_it_was_trained_on(changes: dict[str, Any]) -> None:
    """A word is read at a mask token behind the words before it, in training and in decoding."""
    network, images = tiny_task_network(CaptionHead(), **changes), torch.randn(3, 3, 32, 32)
    assert isinstance(network, CaptionNetwork)
    words = torch.cat([torch.zeros(3, 1, dtype=torch.int64), torch.randint(4, MASK_ID, (3, 4))], dim=1)
    cache = prefill(network, images)
    for place in range(1, 5):
        masked = torch.cat([words[:, :place], torch.full((3, 1), MASK_ID)], dim=1)
        with torch.no_grad():
            trained = network(captioned(images, masked))[:, place]
        decoded = network.mlm_head(network.encoder.decode(masked[:, -2:], cache)[:, 1])
        cache.drop_last(1)
        torch.testing.assert_close(decoded, trained, atol=2e-5, rtol=0)
    rules = CaptionRules(0, 2, 1, MASK_ID, never_ids=(0, 1, 3, MASK_ID), max_length=8, num_beams=3)
    found = captions(network, images, rules)
    assert found.ids.shape[0] == 3 and (found.ids[:, 0] == 0).all() and found.scores.isfinite().all()
