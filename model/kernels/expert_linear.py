"""Linear layers over the packed rows with the weights of each row's expert.

    y = x @ weight[e].T + bias[e]

One matrix product per expert, by cuBLAS (or the CPU's library), each written straight into its rows of the result.
Plain torch would concatenate the results, and each expert's dx in backward: for N rows from D to F in bfloat16, 4 N F
and 4 N D bytes more. torch would also save the transposed view of each weight for backward, which keeps alive what
ZeRO-3 gathered; this saves the parameter itself, which is gathered again. Two or three tall products keep a GPU busy:
tests/benchmarks/bench_kernels.py compares them with `torch._grouped_mm`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.flop_counter import register_flop_formula

from model.expert_rows import ExpertRows
from model.kernels.backend import Backend
from model.kernels.nvidia_apex import apex_linear

PRODUCTS_NAME = "imglish::expert_products"
_LIBRARY = torch.library.Library("imglish", "DEF")
_LIBRARY.define("expert_products(Tensor x, Tensor[] weights, Tensor[] biases, int[] starts) -> Tensor")


def expert_linear_reference(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, rows: ExpertRows
) -> Tensor:
    """Return the products: the definition. Shapes as in `expert_linear`."""
    parts = [linear(part, weights[e], biases[e] if biases else None) for e, part in enumerate(rows.split(x))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def forward_products(x: Tensor, weights: Sequence[Tensor], rows: ExpertRows, biases: Sequence[Tensor] = ()) -> Tensor:
    """Return the products, (N, F), of x (N, D) and weights (F, D), with biases (F,), if any, of each expert.

    A single torch operation, so that selective checkpointing can name it.
    """
    starts = [part.start for part in rows.slices()]
    product: Tensor = torch.ops.imglish.expert_products(x, list(weights), list(biases), starts)
    return product


def _expert_products(x: Tensor, weights: list[Tensor], biases: list[Tensor], starts: list[int]) -> Tensor:
    y = x.new_empty(len(x), len(weights[0]))
    for expert, (start, end) in enumerate(zip(starts, [*starts[1:], len(x)], strict=True)):
        if biases:
            torch.addmm(biases[expert], x[start:end], weights[expert].t(), out=y[start:end])
        else:
            torch.mm(x[start:end], weights[expert].t(), out=y[start:end])
    return y


_LIBRARY.impl("expert_products", _expert_products, "CompositeExplicitAutograd")


@register_flop_formula(torch.ops.imglish.expert_products)
def _expert_products_flops(x_shape: list[int], weight_shapes: list[list[int]], *others: Any, **options: Any) -> int:
    """Return the operations for torch's FLOP counter, which does not see inside of the operation."""
    return 2 * math.prod(x_shape) * weight_shapes[0][0]


def input_gradient(dy: Tensor, weights: Sequence[Tensor], rows: ExpertRows) -> Tensor:
    """Return dx (N, D) of dy (N, F) and the weights (F, D) of each expert."""
    dx = dy.new_empty(len(dy), weights[0].shape[1])
    for weight, part in zip(weights, rows.slices(), strict=True):
        torch.mm(dy[part], weight, out=dx[part])
    return dx


def weight_gradients(dy: Tensor, x: Tensor, rows: ExpertRows) -> list[Tensor]:
    """Return each expert's gradient (F, D) of dy (N, F) and x (N, D): zeros for an expert without rows."""
    return [dy[part].t() @ x[part] for part in rows.slices()]


class _ExpertLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: ExpertRows, has_bias: bool, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[: rows.num_experts], parameters[rows.num_experts :]
        ctx.save_for_backward(x, *weights)
        ctx.rows, ctx.has_bias = rows, has_bias
        return forward_products(x, weights, rows, biases)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (x, *weights), rows = grads, ctx.saved_tensors, ctx.rows
        dbiases = [dy[part].sum(0) for part in rows.slices()] if ctx.has_bias else []
        return input_gradient(dy, weights, rows), None, None, *weight_gradients(dy, x, rows), *dbiases


def expert_linear(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    rows: ExpertRows,
    backend: Backend = "reference",
) -> Tensor:
    """Return x @ weight.T + bias, (N, F). x: (N, D); weights: (F, D) of each expert; biases: (F,) of each, or None."""
    if backend == "apex" and biases is not None:
        return torch.cat([apex_linear(part, weights[e], biases[e]) for e, part in enumerate(rows.split(x))])
    return _ExpertLinear.apply(x, rows, biases is not None, *weights, *(biases or ()))
