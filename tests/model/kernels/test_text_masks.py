"""Text masks: the masked share, 80/10/10, the same bits in every version and with every backend. CPU, seconds."""

import pytest
import torch
from torch import Tensor

from model.kernels import language
from model.kernels.text_masks import MASKED_BELOW, RANDOM_BELOW, mask_texts
from model.objective import IGNORE_INDEX
from model.philox import uniform
from tests.support.kernels import DEVICE, digest, poisoned_memory

SAMPLE_IDS = torch.cat([torch.arange(500), torch.tensor([2**31, 2**32 - 1, 2**32, 2**40 + 1, 2**62 + 12345])])
MASK_ID, WORD_IDS = 64001, (4, 64001)
SMALL_MASK_ID, SMALL_WORD_IDS = 99, (4, 99)


def random_texts(count: int, length: int) -> tuple[Tensor, Tensor]:
    """Return ids and padding of texts of 0..length tokens."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 64000, (count, length), generator=generator)
    padding = torch.arange(length) >= torch.randint(0, length + 1, (count, 1), generator=generator)
    return torch.where(padding, 1, ids), padding


def assert_kernel_equals_reference(seed: int, sample_ids: Tensor, ids: Tensor, padding: Tensor, ratio: float) -> None:
    arguments = ratio, MASK_ID, WORD_IDS
    expected = mask_texts(seed, sample_ids, ids, padding, *arguments, "reference")
    sample_ids, ids, padding = sample_ids.to(DEVICE), ids.to(DEVICE), padding.to(DEVICE)
    with poisoned_memory():
        found = mask_texts(seed, sample_ids, ids, padding, *arguments, "triton")
    for name, tensor in vars(expected).items():
        assert torch.equal(vars(found)[name].cpu(), tensor), name


# written at commit 42f6e21 on a CPU; masks are part of a run's definition: never regenerate
@pytest.mark.parametrize(
    ("seed", "length", "ratio", "expected"),
    [
        (0, 24, 0.5, "f80352eab6ae94e5"),
        (0, 1, 0.5, "acbd31ed97379314"),
        (7, 196, 0.15, "b04beb29d4624538"),
        (2**40 + 3, 64, 0.5, "739a3a4eac66c76d"),
        (2**63 + 11, 2, 0.5, "63884b4601e55c0a"),
        (-5, 24, 0.15, "9aa772c13273faca"),
    ],
)
def test_masks_never_change(seed: int, length: int, ratio: float, expected: str) -> None:
    ids, padding = random_texts(len(SAMPLE_IDS), length)
    masked = mask_texts(seed, SAMPLE_IDS, ids, padding, ratio, MASK_ID, WORD_IDS, "reference")
    assert digest(masked.ids, masked.positions, masked.labels) == expected


@pytest.mark.parametrize("seed", [0, 2**31 + 5, -1])
@pytest.mark.parametrize(("length", "ratio"), [(1, 0.5), (2, 0.5), (24, 0.5), (64, 0.9), (129, 0.15)])
def test_kernel_equals_reference(seed: int, length: int, ratio: float) -> None:
    ids, padding = random_texts(len(SAMPLE_IDS), length)
    assert_kernel_equals_reference(seed, SAMPLE_IDS, ids, padding, ratio)


def test_kernel_equals_reference_with_one_text_per_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "INTERPRETED_ELEMENTS", 1)
    ids, padding = random_texts(5, 1022)
    assert_kernel_equals_reference(5, SAMPLE_IDS[-5:], ids, padding, 0.15)


def test_no_text_has_no_mask() -> None:
    ids, padding = random_texts(0, 24)
    assert_kernel_equals_reference(0, SAMPLE_IDS[:0], ids, padding, 0.5)


def test_a_word_is_replaced_where_float32_says_so() -> None:
    high_bits = torch.cat([torch.arange(bound - 9, bound + 9) for bound in (MASKED_BELOW, RANDOM_BELOW)])
    assert torch.equal(high_bits < MASKED_BELOW, uniform(high_bits << 8) < 0.8)
    assert torch.equal(high_bits < RANDOM_BELOW, uniform(high_bits << 8) < 0.9)


def texts(count: int, length: int, real: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(4, 99, (count, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 0
    padding = (torch.arange(length) >= real).expand(count, -1)
    return torch.where(padding, 1, ids), padding


@pytest.mark.parametrize(
    ("real", "ratio", "expected"), [(20, 0.5, 10), (20, 0.15, 3), (7, 0.5, 4), (3, 0.15, 1), (2, 0.9, 1)]
)
def test_the_share_of_masked_tokens_is_the_ratio(real: int, ratio: float, expected: int) -> None:
    ids, padding = texts(200, 24, real)
    masked = mask_texts(0, torch.arange(200), ids, padding, ratio, SMALL_MASK_ID, SMALL_WORD_IDS, "reference")
    asked = masked.labels != IGNORE_INDEX
    assert (asked.sum(1) == expected).all()
    assert (masked.positions[asked] > 0).all() and (masked.positions[asked] < real).all()
    assert torch.equal(masked.labels[asked], ids.gather(1, masked.positions)[asked])
    changed = masked.ids != ids
    at_asked = torch.zeros_like(padding).scatter(1, masked.positions, asked)
    assert not (changed & ~at_asked & (torch.arange(24) > 0)).any()


def test_replacement_is_80_10_10_and_every_place_is_equally_likely() -> None:
    ids, padding = texts(20_000, 11, 11)
    masked = mask_texts(0, torch.arange(20_000), ids, padding, 0.5, SMALL_MASK_ID, SMALL_WORD_IDS, "reference")
    replaced = masked.ids.gather(1, masked.positions)
    is_mask, is_same = (replaced == SMALL_MASK_ID).float().mean(), (replaced == masked.labels).float().mean()
    assert abs(is_mask - 0.8) < 0.005
    assert abs(is_same - (0.1 + 0.1 / 95)) < 0.005
    assert replaced.min() >= 4
    places = torch.bincount(masked.positions.flatten(), minlength=11) / 20_000
    assert places[0] == 0
    assert (places[1:] - 0.6).abs().max() < 0.02  # 6 of 10
