"""The generator against the known answers of its authors' Random123 library (kat_vectors, philox4x32-10)."""

import pytest
import torch

from model.philox import Stream, below, philox_4x32, random_words, uniform

KNOWN_ANSWERS = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN_ANSWERS)
def test_known_answers(key: tuple[int, int], counter: tuple[int, ...], expected: tuple[int, ...]) -> None:
    c0, c1, c2, c3 = (torch.tensor(word) for word in counter)
    assert tuple(int(word) for word in philox_4x32(key, (c0, c1, c2, c3))) == expected


def test_samples_streams_and_seeds_are_independent() -> None:
    ids = torch.arange(1000)
    words = [
        random_words(seed, stream, ids + shift, 0)[0]
        for seed in (0, 1, 2**33)
        for stream in (Stream.IMAGE_BLOCKS, Stream.DROP_PATH)
        for shift in (0, 2**35)
    ]
    assert len(torch.cat(words).unique()) > 0.999 * 12_000


def test_uniform_and_below_cover_their_range() -> None:
    words = random_words(0, Stream.DROP_PATH, torch.arange(100_000), 0)[0]
    draws = uniform(words)
    assert 0 <= draws.min() and draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.005
    counts = torch.bincount(below(words, 7))
    assert len(counts) == 7 and (counts / 100_000 - 1 / 7).abs().max() < 0.005
    assert below(torch.tensor(2**32 - 1), 2**30) == 2**30 - 1
