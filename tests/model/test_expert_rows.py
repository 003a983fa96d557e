"""Row ranges of the experts. CPU, seconds."""

import pytest
import torch

from model.expert_rows import ExpertRows


def test_neighbouring_groups_of_one_expert_are_one_range() -> None:
    rows = ExpertRows((3, 7, 11, 19), (0, 1, 1, 2))
    assert (rows.num_rows, rows.num_experts) == (19, 3)
    assert rows.slices() == [slice(0, 3), slice(3, 11), slice(11, 19)]


def test_an_expert_without_rows_has_an_empty_range() -> None:
    assert ExpertRows((5, 5, 5, 5), (0, 1, 1, 2)).slices() == [slice(0, 5), slice(5, 5), slice(5, 5)]


def test_split_gives_the_rows_of_each_expert() -> None:
    x, rows = torch.arange(12).view(6, 2), ExpertRows((1, 2, 4, 6), (0, 0, 1, 1))
    parts = rows.split(x)
    assert [len(part) for part in parts] == [2, 4] and torch.equal(torch.cat(parts), x)


@pytest.mark.parametrize(
    ("ends", "experts"), [((3, 2), (0, 1)), ((1, 2), (1, 0)), ((1, 2), (0, 2)), ((1,) * 5, (0,) * 5), ((), ())]
)
def test_ranges_that_are_not_in_order_are_a_mistake(ends: tuple[int, ...], experts: tuple[int, ...]) -> None:
    with pytest.raises((AssertionError, IndexError)):
        ExpertRows(ends, experts)
