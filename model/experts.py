"""Modality experts: matrices of each modality, which see its contiguous rows of the packed matrix only.

The modules hold the matrices of the experts; their norms and biases are in one parameter per block
(model/stacked_vectors.py) and come as arguments, one row per expert. The computation, all experts in one call, is in
model/kernels.

Every expert takes part in every call, even with zero rows. Under ZeRO-3 a parameter that a step leaves out is updated
again with its previous gradient, and ranks that run different experts mix their gradients; neither raises an error. So
do not skip an expert because it has no rows.

Shapes: N packed rows, D dim, F ffn dim, E experts.
"""

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from torch import Tensor, nn

from model.kernels.backend import Backend
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.kernels.expert_linear import expert_linear
from model.kernels.expert_norm import expert_norm
from model.kernels.residual_norm import residual_norm
from model.layout import PackedLayout
from model.residual import Branch, add_branch
from model.stacked_vectors import Stack, register_vectors, split_vectors


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


class ExpertLinear(ModalityExperts):
    """The matrix of a linear layer per expert."""

    def __init__(self, dim: int, out_dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: nn.Linear(dim, out_dim, bias=False), experts)

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, biases: Tensor | None = None) -> Tensor:
        """(N, D) -> (N, D_out). biases: (E, D_out), None if they are added later, by a fused operation."""
        each_bias = None if biases is None else biases.unbind()
        return expert_linear(x, self.each("weight"), each_bias, layout.rows(self.experts), backend)


class FinalNorm(nn.Module):
    """The norm after the last block, a LayerNorm per expert, which adds that block's branch first."""

    vectors: nn.Parameter

    def __init__(self, dim: int, experts: tuple[str, ...]):
        super().__init__()
        self.experts = experts
        self.stacks = (Stack("{}.weight", experts, dim), Stack("{}.bias", experts, dim))
        register_vectors(self, self.stacks)

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, branch: Branch | None = None) -> Tensor:
        """(N, D) -> (N, D). branch: None if nothing is left to add."""
        weight, bias = split_vectors(self.vectors, self.stacks)
        rows = layout.rows(self.experts)
        if branch is None:
            return expert_norm(x, weight, bias, rows, backend)
        _, normed = residual_norm(x, branch, weight, bias, rows, backend)
        return normed


class NoFinalNorm(nn.Module):
    """The end of an encoder whose head has a norm of its own: adds the last block's branch alone."""

    def forward(self, x: Tensor, layout: PackedLayout, backend: Backend, branch: Branch | None = None) -> Tensor:
        """(N, D) -> (N, D), as in FinalNorm."""
        return x if branch is None else add_branch(x, branch)


class FeedForward(nn.Module):
    """Matrices of one expert: fc2(LayerNorm(GELU(fc1(x)))).

    The norm is torchscale's sub-LayerNorm, as in `model.attention.MultiwayAttention`.
    """

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim, bias=False)
        self.fc2 = nn.Linear(ffn_dim, dim, bias=False)


class FeedForwardVectors(NamedTuple):
    """Norms and biases of the experts, but for the last bias."""

    norm_weight: Tensor
    """(E, D), of the norm before the expert."""
    norm_bias: Tensor
    """(E, D)"""
    fc1_bias: Tensor
    """(E, F)"""
    subln_weight: Tensor
    """(E, F), of the norm inside the expert."""
    subln_bias: Tensor
    """(E, F)"""


class ExpertFeedForward(ModalityExperts):
    """A feed-forward network per expert."""

    def __init__(self, dim: int, ffn_dim: int, experts: tuple[str, ...]):
        super().__init__(lambda: FeedForward(dim, ffn_dim), experts)

    def forward(
        self, x: Tensor, branch: Branch, vectors: FeedForwardVectors, layout: PackedLayout, backend: Backend
    ) -> tuple[Tensor, Tensor]:
        """Return the sum s of x (N, D) and the branch, and the experts' output on norm(s) without bias, both (N, D).

        Addition, norm and experts are one autograd function: backward then recomputes the norm's output instead of
        keeping it.
        """
        weights = ExpertWeights(**vectors._asdict(), fc1=self.each("fc1.weight"), fc2=self.each("fc2.weight"))
        return expert_ffn(x, branch, weights, layout.rows(self.experts), backend)
