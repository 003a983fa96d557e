"""LayerNorm over the packed rows with the affine parameters of each row's expert, all experts in one launch.

    y = (x - mean(x)) / sqrt(var(x) + eps) * weight[e] + bias[e]

Source: Ba et al., "Layer Normalization" (arXiv 1607.06450). Bytes, for N rows of D in bfloat16, statistics left out:

| | forward | backward |
| --- | --- | --- |
| the fewest, and ours | 4 N D: read x, write y | 6 N D: read x and dy, write dx |
| eager | 8 N D | 14 N D |
| torch.compile | 6 N D | 14 N D |

Counted by tests/benchmarks/bench_kernels.py for two experts, operation by operation, and for torch.compile as Inductor
counts its own kernels on a CPU. Eager concatenates the experts' results; its backward reads x and dy twice, for dx and
for the parameters, and concatenates each expert's dx. The partial sums of our backward are 512 programs * 2 D floats.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.compiled import compiled
from model.kernels.language import block_size, jit, tl
from model.kernels.nvidia_apex import apex_layer_norm
from model.kernels.row_programs import (
    FORWARD_ROWS,
    UNSPECIALIZED,
    backward_rows,
    expert_code,
    expert_of,
    num_programs,
    num_warps,
    program_rows,
    row_arguments,
    sum_by_expert,
)

NORM_EPS = 1e-5


def expert_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, rows: ExpertRows) -> Tensor:
    """Return the norm: the definition. Shapes as in `expert_norm`."""
    parts = [
        layer_norm(part, weight.shape[1:], weight[expert], bias[expert], NORM_EPS)
        for expert, part in enumerate(rows.split(x))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@jit(do_not_specialize=UNSPECIALIZED)
def _expert_norm_forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, end0, end1, end2, num_rows, rows_per_program, experts, eps,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    group, first, last = program_rows(tl.program_id(0), end0, end1, end2, num_rows, rows_per_program)
    expert = expert_of(group, experts)
    columns = tl.arange(0, BLOCK)
    mask = columns < D
    weight = tl.load(weight_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    for row in range(first, last):
        x = tl.load(x_ptr + row * D + columns, mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(x, 0) / D
        # two passes over registers: E[x^2] - E[x]^2 would cancel; the padding of the block must not add mean^2
        centered = tl.where(mask, x - mean, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, 0) / D + eps)
        tl.store(y_ptr + row * D + columns, centered * rstd * weight + bias, mask=mask)
        tl.store(mean_ptr + row, mean)
        tl.store(rstd_ptr + row, rstd)


@jit(do_not_specialize=UNSPECIALIZED)
def _expert_norm_backward(
    x_ptr, weight_ptr, mean_ptr, rstd_ptr, dy_ptr, dx_ptr, partial_ptr, end0, end1, end2, num_rows, rows_per_program,
    experts,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    group, first, last = program_rows(program, end0, end1, end2, num_rows, rows_per_program)
    expert = expert_of(group, experts)
    columns = tl.arange(0, BLOCK)
    mask = columns < D
    weight = tl.load(weight_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    bias_sum = tl.zeros([BLOCK], tl.float32)
    for row in range(first, last):
        x = tl.load(x_ptr + row * D + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + row * D + columns, mask=mask, other=0.0).to(tl.float32)
        normed = tl.where(mask, (x - tl.load(mean_ptr + row)) * tl.load(rstd_ptr + row), 0.0)
        weighted = dy * weight
        # dx is what is left of dy * weight without its components along the row and along ones: a LayerNorm ignores
        # both
        projection = normed * (tl.sum(weighted * normed, 0) / D) + tl.sum(weighted, 0) / D
        tl.store(dx_ptr + row * D + columns, (weighted - projection) * tl.load(rstd_ptr + row), mask=mask)
        weight_sum += dy * normed
        bias_sum += dy
    partial_ptr += program.to(tl.int64) * 2 * D + columns
    tl.store(partial_ptr, weight_sum, mask=mask)
    tl.store(partial_ptr + D, bias_sum, mask=mask)


class _ExpertNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rows: ExpertRows) -> Tensor:
        assert x.is_contiguous() and weight.is_contiguous() and bias.is_contiguous()
        y = torch.empty_like(x)
        mean = torch.empty(len(x), dtype=torch.float32, device=x.device)
        rstd = torch.empty_like(mean)
        grid = sum(num_programs(rows, FORWARD_ROWS))
        width = x.shape[1]
        if grid:
            _expert_norm_forward[(grid,)](
                x, weight, bias, y, mean, rstd, *row_arguments(rows, FORWARD_ROWS), expert_code(rows), NORM_EPS,
                D=width, BLOCK=block_size(width), num_warps=num_warps(width),
            )  # fmt: skip
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.rows = rows
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        rows, width = ctx.rows, x.shape[1]
        dy = grads[0].contiguous()
        dx = torch.empty_like(x)
        rows_per_program = backward_rows(rows)
        programs = num_programs(rows, rows_per_program)
        partial = torch.empty(sum(programs), 2, width, dtype=torch.float32, device=x.device)
        if len(partial):
            _expert_norm_backward[(len(partial),)](
                x, weight, mean, rstd, dy, dx, partial, *row_arguments(rows, rows_per_program), expert_code(rows),
                D=width, BLOCK=block_size(width), num_warps=num_warps(width),
            )  # fmt: skip
        dweight, dbias = sum_by_expert(partial, programs).to(weight.dtype).unbind(1)
        return dx, dweight, dbias, None


def expert_norm(x: Tensor, weight: Tensor, bias: Tensor, rows: ExpertRows, backend: Backend) -> Tensor:
    """Return the norm of x (N, D) in its dtype; weight, bias: (E, D) of each expert. Statistics are float32."""
    if backend == "triton":
        return _ExpertNorm.apply(x, weight, bias, rows)
    if backend == "compile":
        return compiled(expert_norm_reference)(x, weight, bias, rows)
    if backend == "apex":
        return torch.cat([apex_layer_norm(part, weight[e], bias[e], NORM_EPS) for e, part in enumerate(rows.split(x))])
    return expert_norm_reference(x, weight, bias, rows)
