"""The vectors of a block: the same values and gradients as with a parameter for each. CPU, seconds."""

import pytest
import torch
from torch import Tensor

from model.attention import AttentionVectors
from model.block_vectors import BlockVectors, block_stacks
from model.kernels.expert_ffn import ExpertWeights, expert_ffn
from model.kernels.residual_norm import residual_norm
from model.layout import SHARED, THREE_EXPERTS, TWO_EXPERTS, PackedLayout
from model.multiway import MultiwayBlock
from model.residual import Branch
from model.stacked_vectors import rows_of_stacks
from tests.support.tiny import CONFIG, tiny_inputs, tiny_model


def separate_forward(
    block: MultiwayBlock, named: dict[str, Tensor], x: Tensor, branch: Branch, layout: PackedLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a block from vectors that are a tensor each; return the stream, the last branch and its bias."""
    attention, ffn = block.attn.experts, block.experts.experts

    def stacked(name: str, experts: tuple[str, ...]) -> Tensor:
        return torch.stack([named[name.format(expert)] for expert in experts])

    norm1 = (stacked("norm1.{}.weight", attention), stacked("norm1.{}.bias", attention))
    x, normed = residual_norm(x, branch, *norm1, layout.rows(attention), "reference")
    for_attention = [stacked(f"attn.{name}", attention) for name in ("qkv.{}.bias", "norm.{}.weight", "norm.{}.bias")]
    output = block.attn(normed, AttentionVectors(*for_attention), layout, "reference")
    branch = Branch(output, stacked("attn.proj.{}.bias", attention), layout.rows(attention), None)
    weights = ExpertWeights(
        norm_weight=stacked("norm2.{}.weight", ffn),
        norm_bias=stacked("norm2.{}.bias", ffn),
        fc1=block.experts.each("fc1.weight"),
        fc1_bias=stacked("experts.{}.fc1.bias", ffn),
        subln_weight=stacked("experts.{}.norm.weight", ffn),
        subln_bias=stacked("experts.{}.norm.bias", ffn),
        fc2=block.experts.each("fc2.weight"),
    )
    x, output = expert_ffn(x, branch, weights, layout.rows(ffn), "reference")
    return x, output, stacked("experts.{}.fc2.bias", ffn)


@pytest.mark.parametrize("attention", ["shared", "decoupled"])
@pytest.mark.parametrize("counts", [(2, 3, 4), (2, 0, 0)], ids=str)
def test_a_block_equals_one_with_a_parameter_per_vector_to_the_bit(
    counts: tuple[int, int, int], attention: str
) -> None:
    block = tiny_model(attention=attention).encoder.blocks[2]
    assert isinstance(block, MultiwayBlock) and block.experts.experts == THREE_EXPERTS
    layout = tiny_inputs(*counts).layout()
    x, output, dx, dz = torch.randn(4, layout.num_rows, CONFIG.dim, generator=torch.Generator().manual_seed(0))
    before = Branch(output, torch.randn(2, CONFIG.dim), layout.rows(TWO_EXPERTS), None)
    matrices = [parameter for parameter in block.parameters() if parameter.ndim > 1]

    stream, branch = block(x, before, layout)
    outputs = (stream, branch.output, branch.bias)
    given = (dx, dz, torch.ones_like(branch.bias))
    *dmatrices, dvectors = torch.autograd.grad(outputs, [*matrices, block.vectors], given)

    rows = rows_of_stacks(block.stacks)
    named = {name: value.clone().requires_grad_() for name, value in block.state_dict().items() if value.ndim == 1}
    assert {row.name for row in rows} == set(named)
    expected = separate_forward(block, named, x, before, layout)
    wanted = torch.autograd.grad(expected, [*matrices, *named.values()], given, allow_unused=True)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    torch.testing.assert_close(dmatrices, list(wanted[: len(matrices)]), rtol=0, atol=0)
    of_vector = dict(zip(named, wanted[len(matrices) :], strict=True))
    for row in rows:
        torch.testing.assert_close(
            dvectors[row.start : row.start + row.length], of_vector[row.name], rtol=0, atol=0, msg=row.name
        )


def test_the_stacks_are_in_the_order_of_the_fields() -> None:
    stacks = block_stacks(6, 8, SHARED, TWO_EXPERTS)
    fields = [
        "norm1_weight", "norm1_bias", "qkv_bias", "attn_norm_weight", "attn_norm_bias", "proj_bias", "norm2_weight",
        "norm2_bias", "fc1_bias", "subln_weight", "subln_bias", "fc2_bias",
    ]  # fmt: skip
    assert list(BlockVectors._fields) == fields
    assert [stack.name.replace(".{}", "") for stack in stacks] == [
        "norm1.weight", "norm1.bias", "attn.qkv.bias", "attn.norm.weight", "attn.norm.bias", "attn.proj.bias",
        "norm2.weight", "norm2.bias", "experts.fc1.bias", "experts.norm.weight", "experts.norm.bias",
        "experts.fc2.bias",
    ]  # fmt: skip
