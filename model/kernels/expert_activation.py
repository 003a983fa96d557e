"""The operations between the two matrix products of an expert: bias, GELU, sub-LayerNorm; all experts in one launch.

    a = h + bias[e]        g = gelu(a) = a * Phi(a), the exact GELU
    y = LayerNorm(g) * weight[e] + norm_bias[e]

Source: torchscale's FeedForwardNetwork with subln; Hendrycks and Gimpel, "Gaussian Error Linear Units"
(arXiv 1606.08415). Saved for backward: h and two statistics per row; the rest is recomputed.
Bytes, for N rows of F in bfloat16, statistics left out:

| | forward | backward |
| --- | --- | --- |
| the fewest, and ours | 4 N F: read h, write y | 6 N F: read h and dy, write dh |
| eager | 20 N F | 26 N F |
| torch.compile | 14 N F | 22 N F |

Counted by tests/benchmarks/bench_kernels.py for two experts, operation by operation, and for torch.compile as Inductor
counts its own kernels on a CPU. The backward of an expert also needs y, for the gradient of the second matrix: ours
writes it in the same pass (8 N F), the others keep it from forward.

These kernels are near the limit of instructions, too: `python -m tests.ahead_of_time --ceilings` prints the bandwidth
that issuing them allows. Hence an erf that shares its exponential with the slope, and few warps with many elements
each, so that every load and store of a row takes 16 bytes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.compiled import compiled
from model.kernels.expert_norm import NORM_EPS, expert_norm, expert_norm_reference
from model.kernels.language import jit, tl
from model.kernels.residual_norm import NormStatistics
from model.kernels.row_programs import (
    UNSPECIALIZED,
    backward_rows,
    expert_code,
    expert_of,
    num_programs,
    program_rows,
    row_arguments,
    sum_by_expert,
)
from model.kernels.row_tiles import add_rows, load_row, row_tiles, row_warps, store_row, sum_row, zero_row


def expert_gelu_reference(h: Tensor, bias: Tensor, rows: ExpertRows) -> Tensor:
    """Return gelu(h + bias), (N, F)."""
    parts = [gelu(part + bias[expert]) for expert, part in enumerate(rows.split(h))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def expert_activation_reference(h: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, rows: ExpertRows) -> Tensor:
    """Return the activation: the definition. Shapes as in `expert_activation`."""
    return expert_norm_reference(expert_gelu_reference(h, bias, rows), weight, norm_bias, rows)


@jit
def gelu_and_slope(a):
    """Return gelu(a), and its derivative Phi(a) + a * phi(a).

    With t = 1 / (1 + c |a|) and a polynomial p, Phi(-|a|) = p(t) exp(-a^2 / 2): the form of Abramowitz and Stegun
    7.1.26, whose exponential the derivative needs anyway. Their coefficients are off by 7e-8, and as sums of large
    terms of both signs they lose bits in float32; these, of one degree more, are a minimax fit (Lawson's algorithm):
    |error of Phi| < 6e-9.
    """
    exponential = tl.exp2(a * a * -0.7213475204444817)  # log2(e) / 2
    # a division would be guarded against subnormal numbers, by six instructions, which 1 <= scale does not need:
    # the square of a reciprocal root, and a step of Newton's method for its last bits
    scale = 1.0 + 0.38 * tl.abs(a)
    root = tl.rsqrt(scale)
    t = root * root
    t = t * (2.0 - scale * t)
    p = 0.454590658 + t * (-0.282306924 + t * 0.0555413844)
    p = 0.000984093168 + t * (0.137934051 + t * (0.227931243 + t * (-0.0946745004 + t * p)))
    tail = p * exponential
    cdf = tl.where(a < 0, tail, 1.0 - tail)
    return a * cdf, cdf + a * exponential * 0.3989422804014327


@jit(do_not_specialize=UNSPECIALIZED)
def _expert_activation_forward(
    h_ptr, bias_ptr, weight_ptr, norm_bias_ptr, y_ptr, mean_ptr, rstd_ptr,
    end0, end1, end2, num_rows, rows_per_program, experts, eps,
    F: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    group, first, last = program_rows(tl.program_id(0), end0, end1, end2, num_rows, rows_per_program)
    columns = tl.arange(0, TILE)
    parameters = expert_of(group, experts) * F
    for row in range(first, last):
        h = load_row(h_ptr + row * F, columns, F, TILES, TILE)
        # parameters are loaded per row, from cache: a row of 6144 leaves no registers to keep three more across rows
        bias = load_row(bias_ptr + parameters, columns, F, TILES, TILE)
        activated = ()
        for i in tl.static_range(TILES):
            g, _ = gelu_and_slope(h[i] + bias[i])  # 0 past the row
            activated = activated + (g,)
        mean = sum_row(activated, TILES) / F
        squares = ()
        for i in tl.static_range(TILES):
            centered = tl.where(i * TILE + columns < F, activated[i] - mean, 0.0)
            squares = squares + (centered * centered,)
        rstd = 1.0 / tl.sqrt(sum_row(squares, TILES) / F + eps)
        weight = load_row(weight_ptr + parameters, columns, F, TILES, TILE)
        norm_bias = load_row(norm_bias_ptr + parameters, columns, F, TILES, TILE)
        y = ()
        for i in tl.static_range(TILES):
            y = y + ((activated[i] - mean) * rstd * weight[i] + norm_bias[i],)
        store_row(y_ptr + row * F, columns, y, F, TILES, TILE)
        tl.store(mean_ptr + row, mean)
        tl.store(rstd_ptr + row, rstd)


@jit(do_not_specialize=UNSPECIALIZED)
def _expert_activation_backward(
    h_ptr, bias_ptr, weight_ptr, norm_bias_ptr, mean_ptr, rstd_ptr, dy_ptr, dh_ptr, y_ptr, partial_ptr,
    end0, end1, end2, num_rows, rows_per_program, experts,
    F: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, EMIT_Y: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    group, first, last = program_rows(program, end0, end1, end2, num_rows, rows_per_program)
    columns = tl.arange(0, TILE)
    parameters = expert_of(group, experts) * F
    weight_sum, norm_bias_sum, bias_sum = zero_row(TILES, TILE), zero_row(TILES, TILE), zero_row(TILES, TILE)
    for row in range(first, last):
        mean, rstd = tl.load(mean_ptr + row), tl.load(rstd_ptr + row)
        h = load_row(h_ptr + row * F, columns, F, TILES, TILE)
        bias = load_row(bias_ptr + parameters, columns, F, TILES, TILE)
        dy = load_row(dy_ptr + row * F, columns, F, TILES, TILE)
        weight = load_row(weight_ptr + parameters, columns, F, TILES, TILE)
        normed, slopes, weighted, products = (), (), (), ()
        for i in tl.static_range(TILES):
            g, slope = gelu_and_slope(h[i] + bias[i])
            normed = normed + ((g - mean) * rstd,)
            slopes = slopes + (slope,)
            weighted = weighted + (dy[i] * weight[i],)
            products = products + (dy[i] * normed[i],)
        weight_sum = add_rows(weight_sum, products, TILES)
        norm_bias_sum = add_rows(norm_bias_sum, dy, TILES)
        projected = ()
        for i in tl.static_range(TILES):
            projected = projected + (weighted[i] * normed[i],)
        along, mean_weighted = sum_row(projected, TILES) / F, sum_row(weighted, TILES) / F
        dh = ()
        for i in tl.static_range(TILES):
            gradient = (weighted[i] - normed[i] * along - mean_weighted) * rstd * slopes[i]
            dh = dh + (tl.where(i * TILE + columns < F, gradient, 0.0),)
        bias_sum = add_rows(bias_sum, dh, TILES)
        store_row(dh_ptr + row * F, columns, dh, F, TILES, TILE)
        # y_ptr may be dy_ptr, which saves a matrix of memory: the row of dy is in registers by now, as the sums above
        # needed all of it, and no other program reads it. Weights are loaded again, as registers are short.
        if EMIT_Y:
            norm_bias = load_row(norm_bias_ptr + parameters, columns, F, TILES, TILE)
            weight = load_row(weight_ptr + parameters, columns, F, TILES, TILE)
            y = ()
            for i in tl.static_range(TILES):
                y = y + (normed[i] * weight[i] + norm_bias[i],)
            store_row(y_ptr + row * F, columns, y, F, TILES, TILE)
    partial_ptr += program.to(tl.int64) * 3 * F
    store_row(partial_ptr, columns, weight_sum, F, TILES, TILE)
    store_row(partial_ptr + F, columns, norm_bias_sum, F, TILES, TILE)
    store_row(partial_ptr + 2 * F, columns, bias_sum, F, TILES, TILE)


def launch_forward(
    h: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, rows: ExpertRows
) -> tuple[Tensor, NormStatistics]:
    """Return y, and the statistics that backward needs beside h."""
    for tensor in (h, bias, weight, norm_bias):
        assert tensor.is_contiguous()
    y = torch.empty_like(h)
    mean = torch.empty(len(h), dtype=torch.float32, device=h.device)
    statistics = NormStatistics(mean, torch.empty_like(mean))
    programs, width = sum(num_programs(rows, 1)), h.shape[1]
    tiles, tile = row_tiles(width)
    if programs:
        _expert_activation_forward[(programs,)](
            h, bias, weight, norm_bias, y, *statistics, *row_arguments(rows, 1), expert_code(rows), NORM_EPS,
            F=width, TILES=tiles, TILE=tile, num_warps=row_warps(tiles, tile),
        )  # fmt: skip
    return y, statistics


def launch_backward(
    h: Tensor,
    statistics: NormStatistics,
    bias: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    rows: ExpertRows,
    dy: Tensor,
    *,
    emit_y: bool,
) -> tuple[Tensor, Tensor]:
    """Return dh (N, F), and the gradients of weight, norm_bias and bias, (E, 3, F).

    emit_y: overwrite dy with y, recomputed.
    """
    assert dy.is_contiguous()
    dh = torch.empty_like(h)
    rows_per_program, width = backward_rows(rows), h.shape[1]
    tiles, tile = row_tiles(width)
    programs = num_programs(rows, rows_per_program)
    partial = torch.empty(sum(programs), 3, width, dtype=torch.float32, device=h.device)
    if len(partial):
        _expert_activation_backward[(len(partial),)](
            h, bias, weight, norm_bias, *statistics, dy, dh, dy, partial,
            *row_arguments(rows, rows_per_program), expert_code(rows),
            F=width, TILES=tiles, TILE=tile, EMIT_Y=emit_y, num_warps=row_warps(tiles, tile),
        )  # fmt: skip
    return dh, sum_by_expert(partial, programs).to(weight.dtype)


class _ExpertActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, rows: ExpertRows) -> Tensor:
        y, statistics = launch_forward(h, bias, weight, norm_bias, rows)
        ctx.save_for_backward(h, *statistics, bias, weight, norm_bias)
        ctx.rows = rows
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h, mean, rstd, bias, weight, norm_bias = ctx.saved_tensors
        dy = grads[0].contiguous()
        statistics = NormStatistics(mean, rstd)
        dh, dparameters = launch_backward(h, statistics, bias, weight, norm_bias, ctx.rows, dy, emit_y=False)
        dweight, dnorm_bias, dbias = dparameters.unbind(1)
        return dh, dbias, dweight, dnorm_bias, None


def expert_activation(
    h: Tensor, bias: Tensor, weight: Tensor, norm_bias: Tensor, rows: ExpertRows, backend: Backend
) -> Tensor:
    """Return the sub-LayerNorm of gelu(h + bias), (N, F) in the dtype of h.

    h: (N, F), the first matrix product without its bias; bias, weight, norm_bias: (E, F) of each expert.
    """
    if backend == "triton":
        return _ExpertActivation.apply(h, bias, weight, norm_bias, rows)
    if backend == "compile":
        return compiled(expert_activation_reference)(h, bias, weight, norm_bias, rows)
    return expert_norm(expert_gelu_reference(h, bias, rows), weight, norm_bias, rows, backend)
