from functools import partial

import pytest
import torch
from torch import Tensor

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.residual import Branch
from tests.support.kernels import DEVICE, ROWS, assert_same, random_tensors

DIM, FFN_DIM = 9, 21


def inputs_for(rows: ExpertRows, bias_rows: ExpertRows) -> list[Tensor]:
    num_experts, stream = rows.num_experts, (rows.num_rows, DIM)
    vectors = [(num_experts, DIM)] * 2 + [(num_experts, FFN_DIM)] * 3
    matrices = [(FFN_DIM, DIM)] * num_experts + [(DIM, FFN_DIM)] * num_experts
    return random_tensors(0, stream, stream, (bias_rows.num_experts, DIM), *vectors, *matrices)


def call(
    x: Tensor,
    output: Tensor,
    bias: Tensor,
    *parameters: Tensor,
    scale: Tensor | None,
    bias_rows: ExpertRows,
    rows: ExpertRows,
    backend: Backend,
) -> tuple[Tensor, Tensor]:
    norm_weight, norm_bias, fc1_bias, subln_weight, subln_bias, *matrices = parameters
    fc1, fc2 = matrices[: rows.num_experts], matrices[rows.num_experts :]
    weights = ExpertWeights(norm_weight, norm_bias, fc1, fc1_bias, subln_weight, subln_bias, fc2)
    return expert_ffn(x, Branch(output, bias, bias_rows, scale), weights, rows, backend)


@pytest.mark.parametrize(("rows", "has_scale"), [(rows, True) for rows in ROWS] + [(ROWS[4], False)], ids=str)
def test_one_function_equals_its_parts(rows: ExpertRows, has_scale: bool) -> None:
    bias_rows = ExpertRows(rows.ends, tuple(number // 2 for number in range(len(rows.ends))))
    scale = torch.arange(rows.num_rows, device=DEVICE) % 2 * 1.25 if has_scale else None
    either = partial(call, scale=scale, bias_rows=bias_rows, rows=rows)
    inputs = inputs_for(rows, bias_rows)
    assert_same(partial(either, backend="triton"), partial(either, backend="reference"), inputs)


@pytest.mark.slow
def test_gradients_of_the_reference_are_right() -> None:
    rows, bias_rows = ExpertRows((1, 1, 3, 4), (0, 1, 1, 2)), ExpertRows((1, 1, 3, 4), (0, 0, 1, 1))
    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs_for(rows, bias_rows)]
    either = partial(call, scale=None, bias_rows=bias_rows, rows=rows)
    assert torch.autograd.gradcheck(partial(either, backend="reference"), inputs)


def test_it_keeps_the_residual_stream_the_pre_activation_and_four_statistics_per_row() -> None:
    rows = ExpertRows((3, 7), (0, 1))
    inputs = inputs_for(rows, rows)
    given = {tensor.data_ptr() for tensor in inputs}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(*inputs, scale=None, bias_rows=rows, rows=rows, backend="triton")
    assert sum(size for pointer, size in kept.items() if pointer not in given) == rows.num_rows * (DIM + FFN_DIM + 4)
