from functools import partial

import pytest
import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.residual_norm import residual_norm
from model.residual import Branch
from tests.support.kernels import ROWS, SIZES, assert_same, random_tensors


def call(
    x: Tensor,
    output: Tensor,
    bias: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    *,
    scale: Tensor | None,
    bias_rows: ExpertRows,
    norm_rows: ExpertRows,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    return residual_norm(x, Branch(output, bias, bias_rows, scale), weight, norm_bias, norm_rows, backend)


@pytest.mark.parametrize(
    ("rows", "width", "has_scale"), [(*size, True) for size in SIZES] + [(ROWS[4], 31, False)], ids=str
)
def test_kernel_equals_reference(rows: ExpertRows, width: int, has_scale: bool) -> None:
    bias_rows = ExpertRows(rows.ends, tuple(number // 2 for number in range(len(rows.ends))))  # other experts
    shape = (rows.num_rows, width)
    bias_shape, norm_shape = (bias_rows.num_experts, width), (rows.num_experts, width)
    inputs = random_tensors(0, shape, shape, bias_shape, norm_shape, norm_shape)
    (draws,) = random_tensors(1, shape[:1])
    scale = torch.where(draws > 0, 1.25, 0.0).detach() if has_scale else None
    either = partial(call, scale=scale, bias_rows=bias_rows, norm_rows=rows)
    assert_same(partial(either, backend="triton"), partial(either, backend="reference"), inputs)


def test_gradients_of_the_reference_are_right() -> None:
    ends = (2, 2, 4, 5)
    bias_rows, norm_rows = ExpertRows(ends, (0, 0, 1, 1)), ExpertRows(ends, (0, 1, 1, 2))
    tensors = random_tensors(1, (5, 7), (5, 7), (2, 7), (3, 7), (3, 7))
    inputs = [tensor.detach().double().requires_grad_() for tensor in tensors]
    scale = torch.tensor([0, 1.25, 1.25, 0, 2], dtype=torch.float64, device=inputs[0].device)
    reference = partial(call, scale=scale, bias_rows=bias_rows, norm_rows=norm_rows, backend="reference")
    assert torch.autograd.gradcheck(reference, inputs)
