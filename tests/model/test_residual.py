"""A branch and the residual stream. CPU, seconds."""

import pytest
import torch

from model.expert_rows import ExpertRows
from model.residual import Branch, add_branch

ROWS = ExpertRows((1, 3), (0, 1))
BIAS = torch.tensor([[10.0, 20.0], [100.0, 200.0]])


@pytest.mark.parametrize("scale", [None, torch.tensor([0.0, 1.0, 2.0])])
def test_a_branch_is_added_with_its_experts_bias_and_scaled_by_row(scale: torch.Tensor | None) -> None:
    x, output = torch.ones(3, 2), torch.zeros(3, 2)
    factors = torch.ones(3) if scale is None else scale
    expected = 1 + factors[:, None] * torch.tensor([[10.0, 20.0], [100.0, 200.0], [100.0, 200.0]])
    assert torch.equal(add_branch(x, Branch(output, BIAS, ROWS, scale)), expected)


def test_the_stream_keeps_its_type() -> None:
    branch = Branch(torch.zeros(3, 2).bfloat16(), BIAS.bfloat16(), ROWS, torch.ones(3))
    assert add_branch(torch.ones(3, 2).bfloat16(), branch).dtype == torch.bfloat16
