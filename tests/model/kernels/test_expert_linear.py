from functools import partial

import pytest
import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.expert_linear import expert_linear, expert_linear_reference
from tests.support.kernels import ROWS, assert_same, random_tensors


def call(x: Tensor, *parameters: Tensor, has_bias: bool, rows: ExpertRows, is_reference: bool) -> Tensor:
    weights, biases = parameters[: rows.num_experts], parameters[rows.num_experts :]
    function = expert_linear_reference if is_reference else expert_linear
    return function(x, weights, biases if has_bias else None, rows)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no_bias"])
def test_it_equals_separate_layers(rows: ExpertRows, has_bias: bool) -> None:
    parameters = [(13, 7)] * rows.num_experts + [(13,)] * rows.num_experts * has_bias
    inputs = random_tensors(0, (rows.num_rows, 7), *parameters)
    either = partial(call, has_bias=has_bias, rows=rows)
    assert_same(partial(either, is_reference=False), partial(either, is_reference=True), inputs)


def test_gradients_are_right() -> None:
    rows = ExpertRows((2, 2, 4, 5), (0, 1, 1, 2))
    tensors = random_tensors(1, (5, 3), *[(4, 3)] * 3, *[(4,)] * 3)
    inputs = [tensor.detach().double().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(partial(call, has_bias=True, rows=rows, is_reference=False), inputs)
