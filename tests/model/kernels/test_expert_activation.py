from functools import partial

import pytest
import torch

from model.expert_rows import ExpertRows
from model.kernels.expert_activation import expert_activation
from tests.support.kernels import SIZES, assert_same, random_tensors


@pytest.mark.parametrize(("rows", "width"), SIZES, ids=str)
def test_kernel_equals_reference(rows: ExpertRows, width: int) -> None:
    inputs = random_tensors(0, (rows.num_rows, width), *[(rows.num_experts, width)] * 3)
    assert_same(
        partial(expert_activation, rows=rows, backend="triton"),
        partial(expert_activation, rows=rows, backend="reference"),
        inputs,
    )


def test_gradients_of_the_reference_are_right() -> None:
    rows = ExpertRows((2, 2, 4, 5), (0, 1, 1, 2))
    inputs = [tensor.detach().double().requires_grad_() for tensor in random_tensors(1, (5, 7), *[(3, 7)] * 3)]
    assert torch.autograd.gradcheck(partial(expert_activation, rows=rows, backend="reference"), inputs)
