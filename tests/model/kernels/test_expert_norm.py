from functools import partial

import pytest
import torch

from model.expert_rows import ExpertRows
from model.kernels.expert_norm import expert_norm
from tests.support.kernels import SIZES, assert_same, random_tensors


@pytest.mark.parametrize(("rows", "width"), SIZES, ids=str)
def test_kernel_equals_reference(rows: ExpertRows, width: int) -> None:
    num_experts = rows.num_experts
    inputs = random_tensors(0, (rows.num_rows, width), (num_experts, width), (num_experts, width))
    assert_same(
        partial(expert_norm, rows=rows, backend="triton"), partial(expert_norm, rows=rows, backend="reference"), inputs
    )


def test_gradients_of_the_reference_are_right() -> None:
    rows = ExpertRows((2, 2, 4, 5), (0, 1, 1, 2))
    inputs = [tensor.detach().double().requires_grad_() for tensor in random_tensors(1, (5, 7), (3, 7), (3, 7))]
    assert torch.autograd.gradcheck(partial(expert_norm, rows=rows, backend="reference"), inputs)
