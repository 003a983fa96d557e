"""Modality experts: each sees its own rows only, and every one has a gradient. CPU, seconds."""

import pytest
import torch
from torch import Tensor, nn

from model.experts import ExpertFeedForward, ExpertLinear, ExpertNorm, FinalNorm
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
def test_linear_and_norm_apply_each_expert_to_its_rows(experts: tuple[str, ...]) -> None:
    packed = layout()
    x = rows_of(packed)
    for module in (randomized(ExpertLinear(DIM, 5, experts)), randomized(ExpertNorm(DIM, experts))):
        found = module(x, packed, "reference")
        parts = [getattr(module, name)(part) for name, part in zip(experts, packed.rows(experts).split(x), strict=True)]
        torch.testing.assert_close(found, torch.cat(parts))


@ALL
def test_add_and_norm_is_the_sum_and_its_norm(experts: tuple[str, ...]) -> None:
    packed = layout()
    x, final = rows_of(packed), FinalNorm(DIM, experts)
    norm = randomized(final)
    scale = (torch.arange(packed.num_rows) % 2) * 1.25
    branch = Branch(rows_of(packed, 1), torch.randn(2, DIM), packed.rows(TWO_EXPERTS), scale)
    total, normed = final.add_and_norm(x, branch, packed, "reference")
    torch.testing.assert_close(total, add_branch(x, branch))
    torch.testing.assert_close(normed, norm(total, packed, "reference"))
    torch.testing.assert_close(norm(x, packed, "reference", branch), normed)


@pytest.mark.parametrize("counts", [(2, 0, 0), (0, 0, 2), (0, 0, 0)], ids=str)
def test_experts_without_rows_have_a_gradient(counts: tuple[int, int, int]) -> None:
    packed = tiny_inputs(*counts).layout()
    experts, norm = ExpertFeedForward(DIM, 8, THREE_EXPERTS), ExpertNorm(DIM, THREE_EXPERTS)
    branch = Branch(rows_of(packed, 1), torch.zeros(1, DIM), packed.rows(SHARED))
    stream, output = experts(rows_of(packed), branch, norm, packed, "reference")
    # the last bias is added with the branch
    parameters = {**dict(experts.named_parameters()), **dict(norm.named_parameters())}
    used = [parameter for name, parameter in parameters.items() if not name.endswith("fc2.bias")]
    gradients = torch.autograd.grad(stream.sum() + output.sum(), used)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_stacked_parameters_are_copies() -> None:
    norm = ExpertNorm(DIM, TWO_EXPERTS)
    pointers = {parameter.untyped_storage().data_ptr() for parameter in norm.parameters()}
    for experts in (norm, ExpertNorm(DIM, SHARED)):
        pointers |= {parameter.untyped_storage().data_ptr() for parameter in experts.parameters()}
        assert experts.stacked("weight").untyped_storage().data_ptr() not in pointers
