"""A draw without replacement, against sorting by hand; its kernel is tested with the masks. CPU, seconds."""

import torch

from model.kernels.random_choice import random_choice_reference
from model.philox import Stream, random_words

NUM_SAMPLES, NUM_POSITIONS = 50, 17


def test_the_candidates_with_the_smallest_words_are_chosen() -> None:
    ids = torch.arange(NUM_SAMPLES)
    generator = torch.Generator().manual_seed(0)
    candidates = torch.rand(NUM_SAMPLES, NUM_POSITIONS, generator=generator) < 0.5
    count = (torch.rand(NUM_SAMPLES, generator=generator) * (candidates.sum(1) + 1)).long()
    chosen = random_choice_reference(3, Stream.TEXT_POSITIONS, ids, candidates, count)
    words = random_words(3, Stream.TEXT_POSITIONS, ids[:, None], torch.arange(NUM_POSITIONS))[0]
    for sample in range(NUM_SAMPLES):
        ranked = sorted((int(words[sample, i]), i) for i in range(NUM_POSITIONS) if candidates[sample, i])
        expected = {i for _, i in ranked[: int(count[sample])]}
        assert {i for i in range(NUM_POSITIONS) if chosen[sample, i]} == expected
    assert torch.equal(chosen.sum(1), count) and count.min() == 0


def test_every_candidate_is_equally_likely() -> None:
    ids = torch.arange(20_000)
    candidates = torch.ones(len(ids), 5, dtype=torch.bool)
    chosen = random_choice_reference(0, Stream.TEXT_POSITIONS, ids, candidates, torch.full_like(ids, 2))
    assert (chosen.float().mean(0) - 0.4).abs().max() < 0.015
