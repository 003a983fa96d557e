"""The second half of a block as one autograd function: addition of attention's branch, norm, experts.

    s = x + scale * (branch + bias[e])                                  model/kernels/residual_norm.py
    n = LayerNorm(s)                    of the expert
    h = n @ fc1[f].T                                                    model/kernels/expert_linear.py
    y = LayerNorm(gelu(h + fc1_bias[f]))  of the expert                 model/kernels/expert_activation.py
    z = y @ fc2[f].T                    without bias: it is added where z is added to the residual stream

One function, because of the memory that it saves. Kept for backward are s (which the next block keeps too), h, and four
statistics per row: N (D + F) elements. The two backward kernels recompute n and y in the pass that reads s and h
anyway. Eager keeps x + branch, n, h, GELU's output and y: N (2 D + 3 F) and more.

GELU is the exact one. The epilogue of cuBLASLt (and apex's fused_dense_gelu_dense) computes the tanh approximation on
GPUs, which differs by up to 5e-4, so it is not used.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.expert_rows import ExpertRows
from model.kernels import expert_activation as activation
from model.kernels import residual_norm as residual
from model.kernels.backend import Backend
from model.kernels.expert_linear import expert_linear, forward_products, input_gradient, weight_gradients
from model.kernels.residual_norm import NormStatistics
from model.residual import Branch


class ExpertWeights(NamedTuple):
    """The parameters of E experts and of the norms before them."""

    norm_weight: Tensor
    """(E, D), of the norm before the expert."""
    norm_bias: Tensor
    """(E, D)"""
    fc1: Sequence[Tensor]
    """(F, D) per expert, not stacked: a copy of a matrix would cost memory."""
    fc1_bias: Tensor
    """(E, F)"""
    subln_weight: Tensor
    """(E, F), of the norm inside the expert."""
    subln_bias: Tensor
    """(E, F)"""
    fc2: Sequence[Tensor]
    """(D, F) per expert."""


class _ExpertFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor,
        bias: Tensor,
        bias_rows: ExpertRows,
        scale: Tensor | None,
        rows: ExpertRows,
        norm_weight: Tensor,
        norm_bias: Tensor,
        fc1_bias: Tensor,
        subln_weight: Tensor,
        subln_bias: Tensor,
        *matrices: Tensor,
    ) -> tuple[Tensor, Tensor]:
        fc1, fc2 = matrices[: rows.num_experts], matrices[rows.num_experts :]
        branch = Branch(output, bias, bias_rows, scale)
        stream, normed, norm = residual.launch_forward(x, branch, norm_weight, norm_bias, rows)
        h = forward_products(normed, fc1, rows)
        y, subln = activation.launch_forward(h, fc1_bias, subln_weight, subln_bias, rows)
        ctx.save_for_backward(
            stream, *norm, scale, norm_weight, norm_bias, h, *subln, fc1_bias, subln_weight, subln_bias, *matrices
        )
        ctx.rows = bias_rows, rows
        return stream, forward_products(y, fc2, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        stream, norm_mean, norm_rstd, scale, norm_weight, norm_bias, *rest = ctx.saved_tensors
        h, mean, rstd, fc1_bias, subln_weight, subln_bias, *matrices = rest
        bias_rows, rows = ctx.rows
        fc1, fc2 = matrices[: rows.num_experts], matrices[rows.num_experts :]
        dstream, dz = grads[0], grads[1].contiguous()

        dy = input_gradient(dz, fc2, rows)
        dh, dsubln = activation.launch_backward(
            h, NormStatistics(mean, rstd), fc1_bias, subln_weight, subln_bias, rows, dy, emit_y=True
        )
        y = dy  # overwritten by the kernel
        dfc2 = weight_gradients(dz, y, rows)
        del dy, y  # an (N, F) matrix less, before the next ones are allocated
        dnormed = input_gradient(dh, fc1, rows)
        result = residual.launch_backward(
            stream, NormStatistics(norm_mean, norm_rstd), scale, norm_weight, norm_bias, bias_rows, rows,
            dstream, dnormed, emit_y=True,
        )  # fmt: skip
        normed = dnormed  # overwritten by the kernel
        dfc1 = weight_gradients(dh, normed, rows)
        dsubln_weight, dsubln_bias, dfc1_bias = dsubln.unbind(1)
        return (
            result.dx, result.dbranch, result.dbias, None, None, None,
            result.dweight, result.dnorm_bias, dfc1_bias, dsubln_weight, dsubln_bias, *dfc1, *dfc2,
        )  # fmt: skip


def expert_ffn(
    x: Tensor, branch: Branch, weights: ExpertWeights, rows: ExpertRows, backend: Backend
) -> tuple[Tensor, Tensor]:
    """Return the new residual stream and the experts' output without bias, which is not yet added to it, both (N, D).

    x: (N, D), the residual stream; rows: of the experts of `weights`.
    """
    norm_weight, norm_bias, fc1, fc1_bias, subln_weight, subln_bias, fc2 = weights
    if backend == "triton":
        return _ExpertFeedForward.apply(
            x, *branch, rows, norm_weight, norm_bias, fc1_bias, subln_weight, subln_bias, *fc1, *fc2
        )
    stream, normed = residual.residual_norm(x, branch, norm_weight, norm_bias, rows, backend)
    outputs = []
    # expert by expert, so that only the outputs of width D are concatenated, and nothing of width F
    for expert, part in enumerate(rows.split(normed)):
        own, its_rows = slice(expert, expert + 1), ExpertRows((len(part),), (0,))
        h = expert_linear(part, fc1[own], None, its_rows)
        y = activation.expert_activation(h, fc1_bias[own], subln_weight[own], subln_bias[own], its_rows, backend)
        outputs.append(expert_linear(y, fc2[own], None, its_rows))
    return stream, torch.cat(outputs)
