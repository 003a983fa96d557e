"""Modality experts: one module per modality, each on its contiguous slice of the packed rows.

Shapes: N packed rows, D dim, F ffn dim.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.layout import PackedLayout

NORM_EPS = 1e-5


class ModalityExperts(nn.Module):
    """The same kind of module for each of `experts`, applied to the rows of its modality.

    Every expert runs in every call, in the same order, also on zero rows: under ZeRO-3 a parameter that
    a step leaves out is updated with its previous gradient, and ranks that run different experts mix
    gradients, both silently. Do not skip an empty slice.
    """

    def __init__(self, make: Callable[[], nn.Module], experts: tuple[str, ...]):
        super().__init__()
        self.experts = experts
        for name in experts:
            self.add_module(name, make())

    def forward(self, x: Tensor, layout: PackedLayout) -> Tensor:
        """(N, D) -> (N, D_out)"""
        rows = layout.expert_rows(self.experts)
        outputs = [self.get_submodule(name)(x[part]) for name, part in zip(self.experts, rows, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class FeedForward(nn.Module):
    """fc2(LayerNorm(GELU(fc1(x)))): the feed-forward network of one expert, with torchscale's SubLN."""

    def __init__(self, dim: int, ffn_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, ffn_dim)
        self.norm = nn.LayerNorm(ffn_dim, eps=NORM_EPS)
        self.fc2 = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.gelu(self.fc1(x))  # (N, F), the exact GELU
        return self.fc2(self.norm(x))
