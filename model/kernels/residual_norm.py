"""Addition of a branch to the residual stream, and the norm of the sum, in one pass over memory.

    s = x + scale * (branch + bias[e])              the residual stream; scale: stochastic depth, per row
    y = LayerNorm(s) * weight[f] + norm_bias[f]     the input of the next branch

The experts e of the branch's bias and f of the norm may differ: attention can be shared where the feed-forward network
is not, and the other way round. Bytes, for N rows of D in bfloat16:

| | forward | backward |
| --- | --- | --- |
| the fewest, and ours | 8 N D: read x and branch, write s and y | 8 N D: read s, ds and dy, write dx |
| eager | 22 N D, with stochastic depth 38 N D | 26 N D, with stochastic depth 52 N D |
| torch.compile | 16 N D | 26 N D, with stochastic depth 30 N D |

With stochastic depth our backward also writes dbranch, 2 N D more; without it, dbranch is dx.
Counted by tests/benchmarks/bench_kernels.py for two experts, operation by operation, and for torch.compile as Inductor
counts its own kernels on a CPU.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.compiled import compiled
from model.kernels.expert_norm import NORM_EPS, expert_norm, expert_norm_reference
from model.kernels.language import block_size, jit, tl
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
from model.residual import Branch, add_branch


def residual_norm_reference(
    x: Tensor, branch: Branch, weight: Tensor, norm_bias: Tensor, rows: ExpertRows
) -> tuple[Tensor, Tensor]:
    """Return stream and norm: the definition. Shapes as in `residual_norm`."""
    stream = add_branch(x, branch)
    return stream, expert_norm_reference(stream, weight, norm_bias, rows)


@jit(do_not_specialize=UNSPECIALIZED, do_not_specialize_on_alignment=["scale_ptr"])
def _residual_norm_forward(
    x_ptr, branch_ptr, scale_ptr, bias_ptr, weight_ptr, norm_bias_ptr, stream_ptr, y_ptr, mean_ptr, rstd_ptr,
    end0, end1, end2, num_rows, rows_per_program, bias_experts, experts, eps,
    D: tl.constexpr, BLOCK: tl.constexpr, HAS_SCALE: tl.constexpr,
):  # fmt: skip
    group, first, last = program_rows(tl.program_id(0), end0, end1, end2, num_rows, rows_per_program)
    columns = tl.arange(0, BLOCK)
    mask = columns < D
    expert = expert_of(group, experts)
    bias = tl.load(bias_ptr + expert_of(group, bias_experts) * D + columns, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    for row in range(first, last):
        x = tl.load(x_ptr + row * D + columns, mask=mask, other=0.0).to(tl.float32)
        branch = tl.load(branch_ptr + row * D + columns, mask=mask, other=0.0).to(tl.float32) + bias
        if HAS_SCALE:
            branch *= tl.load(scale_ptr + row)
        # the norm is of the sum as it is stored, since backward will read that
        rounded = (x + branch).to(stream_ptr.dtype.element_ty)
        tl.store(stream_ptr + row * D + columns, rounded, mask=mask)
        stream = rounded.to(tl.float32)
        mean = tl.sum(stream, 0) / D
        centered = tl.where(mask, stream - mean, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centered * centered, 0) / D + eps)
        tl.store(y_ptr + row * D + columns, centered * rstd * weight + norm_bias, mask=mask)
        tl.store(mean_ptr + row, mean)
        tl.store(rstd_ptr + row, rstd)


@jit(do_not_specialize=UNSPECIALIZED, do_not_specialize_on_alignment=["scale_ptr"])
def _residual_norm_backward(
    stream_ptr, scale_ptr, weight_ptr, norm_bias_ptr, mean_ptr, rstd_ptr, dstream_ptr, dy_ptr,
    dx_ptr, dbranch_ptr, y_ptr, partial_ptr,
    end0, end1, end2, num_rows, rows_per_program, experts,
    D: tl.constexpr, BLOCK: tl.constexpr, HAS_SCALE: tl.constexpr, EMIT_Y: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    group, first, last = program_rows(program, end0, end1, end2, num_rows, rows_per_program)
    columns = tl.arange(0, BLOCK)
    mask = columns < D
    expert = expert_of(group, experts)
    weight = tl.load(weight_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    if EMIT_Y:
        norm_bias = tl.load(norm_bias_ptr + expert * D + columns, mask=mask, other=0.0).to(tl.float32)
    weight_sum = tl.zeros([BLOCK], tl.float32)
    norm_bias_sum = tl.zeros([BLOCK], tl.float32)
    bias_sum = tl.zeros([BLOCK], tl.float32)
    for row in range(first, last):
        offsets = row * D + columns
        rstd = tl.load(rstd_ptr + row)
        stream = tl.load(stream_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        dstream = tl.load(dstream_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        normed = tl.where(mask, (stream - tl.load(mean_ptr + row)) * rstd, 0.0)
        weighted = dy * weight
        projection = normed * (tl.sum(weighted * normed, 0) / D) + tl.sum(weighted, 0) / D
        dx = dstream + (weighted - projection) * rstd
        tl.store(dx_ptr + offsets, dx, mask=mask)
        # y_ptr may be dy_ptr, which saves a matrix of memory: the row of dy is in registers by now, as the sums above
        # needed all of it, and no other program reads it
        if EMIT_Y:
            tl.store(y_ptr + offsets, normed * weight + norm_bias, mask=mask)
        weight_sum += dy * normed
        norm_bias_sum += dy
        # without a scale the branch's gradient is dx itself, which is written already
        if HAS_SCALE:
            dx *= tl.load(scale_ptr + row)
            tl.store(dbranch_ptr + offsets, dx, mask=mask)
        bias_sum += tl.where(mask, dx, 0.0)
    partial_ptr += program.to(tl.int64) * 3 * D + columns
    tl.store(partial_ptr, weight_sum, mask=mask)
    tl.store(partial_ptr + D, norm_bias_sum, mask=mask)
    tl.store(partial_ptr + 2 * D, bias_sum, mask=mask)


class NormStatistics(NamedTuple):
    """Mean and reciprocal standard deviation of each row, (N,) float32."""

    mean: Tensor
    rstd: Tensor


def launch_forward(
    x: Tensor, branch: Branch, weight: Tensor, norm_bias: Tensor, rows: ExpertRows
) -> tuple[Tensor, Tensor, NormStatistics]:
    """Return the residual stream, its norm, and the statistics for backward."""
    assert branch.rows.ends == rows.ends
    for tensor in (x, branch.output, branch.bias, weight, norm_bias):
        assert tensor.is_contiguous()
    assert branch.scale is None or (branch.scale.is_contiguous() and branch.scale.dtype == torch.float32)
    stream, y = torch.empty_like(x), torch.empty_like(x)
    mean = torch.empty(len(x), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    programs, width = sum(num_programs(rows, FORWARD_ROWS)), x.shape[1]
    if programs:
        _residual_norm_forward[(programs,)](
            x, branch.output, mean if branch.scale is None else branch.scale, branch.bias, weight, norm_bias,
            stream, y, mean, rstd,
            *row_arguments(rows, FORWARD_ROWS), expert_code(branch.rows), expert_code(rows), NORM_EPS,
            D=width, BLOCK=block_size(width), HAS_SCALE=branch.scale is not None, num_warps=num_warps(width),
        )  # fmt: skip
    return stream, y, NormStatistics(mean, rstd)


class BackwardResult(NamedTuple):
    """Gradients of the arguments of `residual_norm`."""

    dx: Tensor
    dbranch: Tensor
    dbias: Tensor
    dweight: Tensor
    dnorm_bias: Tensor


def launch_backward(
    stream: Tensor,
    statistics: NormStatistics,
    scale: Tensor | None,
    weight: Tensor,
    norm_bias: Tensor,
    bias_rows: ExpertRows,
    rows: ExpertRows,
    dstream: Tensor,
    dy: Tensor,
    *,
    emit_y: bool,
) -> BackwardResult:
    """Return the gradients. emit_y: overwrite dy with the norm's output, recomputed."""
    dstream = dstream.contiguous()
    assert dy.is_contiguous()
    rows_per_program, width = backward_rows(rows), stream.shape[1]
    programs = num_programs(rows, rows_per_program)
    dx = torch.empty_like(stream)
    dbranch = dx if scale is None else torch.empty_like(stream)
    partial = torch.empty(sum(programs), 3, width, dtype=torch.float32, device=stream.device)
    if len(partial):
        _residual_norm_backward[(len(partial),)](
            stream, statistics.mean if scale is None else scale, weight, norm_bias, *statistics, dstream, dy,
            dx, dbranch, dy, partial,
            *row_arguments(rows, rows_per_program), expert_code(rows),
            D=width, BLOCK=block_size(width), HAS_SCALE=scale is not None, EMIT_Y=emit_y, num_warps=num_warps(width),
        )  # fmt: skip
    # one matrix of partial sums, but two sets of experts: those of the norm and those of the branch's bias
    dweight, dnorm_bias = sum_by_expert(partial[:, :2], programs).to(weight.dtype).unbind(1)
    dbias = sum_by_expert(partial[:, 2:], num_programs(bias_rows, rows_per_program)).to(weight.dtype)
    return BackwardResult(dx, dbranch, dbias[:, 0], dweight, dnorm_bias)


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor,
        bias: Tensor,
        bias_rows: ExpertRows,
        scale: Tensor | None,
        weight: Tensor,
        norm_bias: Tensor,
        rows: ExpertRows,
    ) -> tuple[Tensor, Tensor]:
        branch = Branch(output, bias, bias_rows, scale)
        stream, y, statistics = launch_forward(x, branch, weight, norm_bias, rows)
        ctx.save_for_backward(stream, *statistics, scale, weight, norm_bias)
        ctx.rows = bias_rows, rows
        return stream, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        stream, mean, rstd, scale, weight, norm_bias = ctx.saved_tensors
        dstream, dy = grads
        bias_rows, rows = ctx.rows
        result = launch_backward(
            stream, NormStatistics(mean, rstd), scale, weight, norm_bias, bias_rows, rows,
            dstream, dy.contiguous(), emit_y=False,
        )  # fmt: skip
        return result.dx, result.dbranch, result.dbias, None, None, result.dweight, result.dnorm_bias, None


def residual_norm(
    x: Tensor, branch: Branch, weight: Tensor, norm_bias: Tensor, rows: ExpertRows, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Return the new residual stream and its norm, both (N, D) in the dtype of x.

    x: (N, D), the residual stream; weight, norm_bias: (E, D) of the norm, whose experts have these rows.
    """
    if backend == "triton":
        return _ResidualNorm.apply(x, *branch, weight, norm_bias, rows)
    if backend == "compile":
        return compiled(residual_norm_reference)(x, branch, weight, norm_bias, rows)
    stream = add_branch(x, branch)
    return stream, expert_norm(stream, weight, norm_bias, rows, backend)
