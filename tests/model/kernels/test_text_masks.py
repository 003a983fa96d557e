import pytest
import torch
from torch import Tensor

from model.masking import mask_texts
from tests.kernels import digest

SAMPLE_IDS = torch.cat([torch.arange(500), torch.tensor([2**31, 2**32 - 1, 2**32, 2**40 + 1, 2**62 + 12345])])
MASK_ID, WORD_IDS = 64001, (4, 64001)


def random_texts(count: int, length: int) -> tuple[Tensor, Tensor]:
    """Ids and padding of texts of 0..length tokens."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 64000, (count, length), generator=generator)
    padding = torch.arange(length) >= torch.randint(0, length + 1, (count, 1), generator=generator)
    return torch.where(padding, 1, ids), padding


# written at commit 42f6e21 on a CPU; masks are part of a run's definition: never renew
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
def test_masks_are_the_same_bits_as_ever(seed: int, length: int, ratio: float, expected: str) -> None:
    ids, padding = random_texts(len(SAMPLE_IDS), length)
    masked = mask_texts(seed, SAMPLE_IDS, ids, padding, ratio, MASK_ID, WORD_IDS)
    assert digest(masked.ids, masked.positions, masked.labels) == expected
