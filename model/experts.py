"""Modality experts: one module per modality, each on its contiguous rows of the packed matrix.

The modules of an expert hold its parameters; what they compute, all experts in one call, is in model/kernels.

Every expert takes part in every call, also with zero rows: under ZeRO-3 a parameter that a step leaves out is updated
with its previous gradient, and ranks that run different experts mix gradients, both silently. Do not skip an empty one.

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
from model.kernels.residual_norm import Branch, residual_norm
from model.layout import PackedLayout


class ModalityExperts(nn.Module):
    """The same kind of module for each of `experts`."""

    def __init__(self, make: Callable[[], nn.Module], experts: tuple[str, ...]):
        super().__init__()
        self.experts = experts
        for name in experts:
            self.add_module(name, make())

    def each(self, name: str) -> list[Tensor]:
        """The parameter of that name of every expert."""
        get = attrgetter(name)
        return [get(getattr(self, expert)) for expert in self.experts]

    def stacked(self, name: str) -> Tensor:
        """(E, ...), a copy: a view that backward keeps would keep all that ZeRO-3 gathered with it."""
        return torch.stack(self.each(name))


class ExpertLinear(ModalityExperts):
    """A linear layer per expert."""

    def __init__(self, dim: int, out_dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: nn.Linear(dim, out_dim), experts)

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, add_bias: bool = True) -> Tensor:
        """(N, D) -> (N, D_out); add_bias: False where it is added later."""
        biases = self.each("bias") if add_bias else None
        return expert_linear(x, self.each("weight"), biases, layout.rows(len(self.experts)), backend)


class ExpertNorm(ModalityExperts):
    """A LayerNorm per expert, and what is added to the residual stream before it."""

    def __init__(self, dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: nn.LayerNorm(dim, eps=NORM_EPS), experts)

    def forward(
        self, x: Tensor, branch: Branch | None, layout: PackedLayout, backend: Backend
    ) -> tuple[Tensor, Tensor]:
        """x: (N, D); branch: what joins it first. Returns the sum and its norm, both (N, D)."""
        weight, bias, rows = self.stacked("weight"), self.stacked("bias"), layout.rows(len(self.experts))
        if branch is None:
            return x, expert_norm(x, weight, bias, rows, backend)
        return residual_norm(x, branch, layout.rows(len(branch.bias)), weight, bias, rows, backend)


class FeedForward(nn.Module):
    """Parameters of one expert: fc2(LayerNorm(GELU(fc1(x)))), the feed-forward network with torchscale's SubLN."""

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
        """x: (N, D), which `branch` joins; norm: of the same experts, before them.

        Returns the sum and the experts' output without bias, both (N, D).
        """
        weights = ExpertWeights(
            norm_weight=norm.stacked("weight"),
            norm_bias=norm.stacked("bias"),
            fc1=self.each("fc1.weight"),
            fc1_bias=self.stacked("fc1.bias"),
            subln_weight=self.stacked("norm.weight"),
            subln_bias=self.stacked("norm.bias"),
            fc2=self.each("fc2.weight"),
        )
        rows = layout.rows(len(self.experts))
        return expert_ffn(x, branch, layout.rows(len(branch.bias)), weights, rows, backend)
