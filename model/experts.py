"""Modality experts: one module per modality, each on its contiguous rows of the packed matrix.

The modules hold the parameters of the experts; the computation, all experts in one call, is in model/kernels.

Every expert takes part in every call, even with zero rows. Under ZeRO-3 a parameter that a step leaves out is updated
again with its previous gradient, and ranks that run different experts mix their gradients; neither raises an error. So
do not skip an expert because it has no rows.

Shapes: N packed rows, D dim, F ffn dim, E experts.
"""

from collections.abc import Callable
from operator import attrgetter

import torch
from torch import Tensor, nn

from model.kernels.backend import Backend
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.kernels.expert_linear import expert_linear
from model.kernels.expert_norm import NORM_EPS, expert_norm
from model.kernels.residual_norm import residual_norm
from model.layout import PackedLayout
from model.residual import Branch


class ModalityExperts(nn.Module):
    """One module of the same kind for each of `experts`."""

    def __init__(self, make: Callable[[], nn.Module], experts: tuple[str, ...]):
        super().__init__()
        self.experts = experts
        for name in experts:
            self.add_module(name, make())

    def each(self, name: str) -> list[Tensor]:
        """Return the parameter of that name of every expert."""
        get = attrgetter(name)
        return [get(getattr(self, expert)) for expert in self.experts]

    def stacked(self, name: str) -> Tensor:
        """Return the parameter of that name of every expert, (E, ...).

        A copy on purpose: ZeRO-3 frees the gathered parameters after the block, but a view that backward has saved
        would keep their memory alive.
        """
        return torch.stack(self.each(name))


class ExpertLinear(ModalityExperts):
    """A linear layer per expert."""

    def __init__(self, dim: int, out_dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: nn.Linear(dim, out_dim), experts)

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, add_bias: bool = True) -> Tensor:
        """(N, D) -> (N, D_out). add_bias: False if the bias is added later, by a fused operation."""
        biases = self.each("bias") if add_bias else None
        return expert_linear(x, self.each("weight"), biases, layout.rows(self.experts), backend)


class ExpertNorm(ModalityExperts):
    """A LayerNorm per expert."""

    def __init__(self, dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: nn.LayerNorm(dim, eps=NORM_EPS), experts)

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend) -> Tensor:
        """(N, D) -> (N, D)"""
        return expert_norm(x, self.stacked("weight"), self.stacked("bias"), layout.rows(self.experts), backend)

    def add_and_norm(self, x: Tensor, branch: Branch, layout: PackedLayout, backend: Backend) -> tuple[Tensor, Tensor]:
        """Return the sum of x (N, D) and the branch, and its norm, both (N, D), in one pass over memory."""
        rows = layout.rows(self.experts)
        return residual_norm(x, branch, self.stacked("weight"), self.stacked("bias"), rows, backend)


class FinalNorm(ExpertNorm):
    """The norm after the last block, which adds that block's branch first.

    A forward of its own, as ZeRO-3 gathers parameters when a module is called: `add_and_norm` can be called directly
    only inside of a block, whose parameters are gathered together.
    """

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, branch: Branch | None = None) -> Tensor:
        """(N, D) -> (N, D). branch: None if nothing is left to add."""
        if branch is None:
            return super().forward(x, layout, backend)
        _, normed = self.add_and_norm(x, branch, layout, backend)
        return normed


class FeedForward(nn.Module):
    """Parameters of one expert: fc2(LayerNorm(GELU(fc1(x)))).

    The norm is torchscale's sub-LayerNorm, as in `model.attention.MultiwayAttention`.
    """

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.norm = nn.LayerNorm(ffn_dim, eps=NORM_EPS)
        self.fc2 = nn.Linear(ffn_dim, dim)


class ExpertFeedForward(ModalityExperts):
    """A feed-forward network per expert."""

    def __init__(self, dim: int, ffn_dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: FeedForward(dim, ffn_dim), experts)

    def forward(
        self, x: Tensor, branch: Branch, norm: ExpertNorm, layout: PackedLayout, backend: Backend
    ) -> tuple[Tensor, Tensor]:
        """Return the sum s of x (N, D) and the branch, and the experts' output on norm(s) without bias, both (N, D).

        The norm's parameters are an argument because addition, norm and experts are one autograd function: backward
        then recomputes the norm's output instead of keeping it. norm: of the same experts.
        """
        assert norm.experts == self.experts
        weights = ExpertWeights(
            norm_weight=norm.stacked("weight"),
            norm_bias=norm.stacked("bias"),
            fc1=self.each("fc1.weight"),
            fc1_bias=self.stacked("fc1.bias"),
            subln_weight=self.stacked("norm.weight"),
            subln_bias=self.stacked("norm.bias"),
            fc2=self.each("fc2.weight"),
        )
        return expert_ffn(x, branch, weights, layout.rows(self.experts), backend)
