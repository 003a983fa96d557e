"""The number of masked words. CPU, seconds."""

import pytest
import torch

from model.kernels.text_masks import mask_texts
from model.objective import IGNORE_INDEX, num_masked


@pytest.mark.parametrize(
    ("length", "ratio", "expected"),
    [
        (0, 0.5, 0),
        (1, 0.5, 0),
        (2, 0.9, 1),
        (3, 0.15, 1),
        (7, 0.5, 4),
        (20, 0.15, 3),
        (20, 0.99, 19),
        (1022, 0.15, 153),
    ],
)
def test_the_number_is_rounded_and_leaves_the_first_token(length: int, ratio: float, expected: int) -> None:
    assert num_masked((length,), ratio) == (expected,)


def test_the_host_counts_as_many_as_the_masks_have() -> None:
    lengths = tuple(range(13))
    padding = torch.arange(12) >= torch.tensor(lengths)[:, None]
    ids = torch.full((13, 12), 5)
    masked = mask_texts(0, torch.arange(13), ids, padding, 0.4, 9, (4, 9), "reference")
    assert tuple((masked.labels != IGNORE_INDEX).sum(1).tolist()) == num_masked(lengths, 0.4)
