"""Modality experts: each sees its own rows only, and every one has a gradient. CPU, seconds."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from model.experts import ExpertFeedForward, ExpertLinear, FeedForwardVectors, FinalNorm
from model.kernels.expert_norm import NORM_EPS
from model.layout import SHARED, THREE_EXPERTS, TWO_EXPERTS, PackedLayout
from model.residual import Branch, add_branch
from tests.support.tiny import tiny_inputs

DIM = 6
ALL = pytest.mark.parametrize("experts", [SHARED, TWO_EXPERTS, THREE_EXPERTS], ids=len)


def layout() -> PackedLayout:
    return tiny_inputs(2, 3, 4).layout()


def randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return module


def rows_of(packed: PackedLayout, seed: int = 0) -> Tensor:
    return torch.randn(packed.num_rows, DIM, generator=torch.Generator().manual_seed(seed))


@ALL
def test_linear_applies_each_expert_to_its_rows(experts: tuple[str, ...]) -> None:
    packed, module = layout(), randomized(ExpertLinear(DIM, 5, experts))
    x, biases = rows_of(packed), torch.randn(len(experts), 5)
    parts = packed.rows(experts).split(x)
    products = [getattr(module, name)(part) for name, part in zip(experts, parts, strict=True)]
    torch.testing.assert_close(module(x, packed, "reference"), torch.cat(products))
    expected = torch.cat([product + bias for product, bias in zip(products, biases, strict=True)])
    torch.testing.assert_close(module(x, packed, "reference", biases), expected)


@ALL
def test_the_final_norm_adds_the_branch_and_is_that_of_each_expert(experts: tuple[str, ...]) -> None:
    packed = layout()
    x, norm = rows_of(packed), randomized(FinalNorm(DIM, experts))
    state = norm.state_dict()
    scale = (torch.arange(packed.num_rows) % 2) * 1.25
    branch = Branch(rows_of(packed, 1), torch.randn(2, DIM), packed.rows(TWO_EXPERTS), scale)
    for stream, given in ((x, None), (add_branch(x, branch), branch)):
        parts = packed.rows(experts).split(stream)
        expected = [
            layer_norm(part, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"], NORM_EPS)
            for name, part in zip(experts, parts, strict=True)
        ]
        torch.testing.assert_close(norm(x, packed, "reference", given), torch.cat(expected))


@pytest.mark.parametrize("counts", [(2, 0, 0), (0, 0, 2), (0, 0, 0)], ids=str)
def test_experts_without_rows_have_a_gradient(counts: tuple[int, int, int]) -> None:
    packed = tiny_inputs(*counts).layout()
    experts = ExpertFeedForward(DIM, 8, THREE_EXPERTS)
    sizes = (DIM, DIM, 8, 8, 8)
    vectors = FeedForwardVectors(*(torch.ones(3, size, requires_grad=True) for size in sizes))
    branch = Branch(rows_of(packed, 1), torch.zeros(1, DIM), packed.rows(SHARED))
    stream, output = experts(rows_of(packed), branch, vectors, packed, "reference")
    gradients = torch.autograd.grad(stream.sum() + output.sum(), [*experts.parameters(), *vectors])
    assert all(gradient.isfinite().all() for gradient in gradients)
