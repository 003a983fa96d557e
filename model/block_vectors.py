"""The norms and biases of a block: which there are, and in which order they lie in its parameter `vectors`.

Shapes: E experts, D dim, F ffn dim.
"""

from typing import NamedTuple

from torch import Tensor

from model.attention import AttentionVectors
from model.experts import FeedForwardVectors
from model.stacked_vectors import Stack


class BlockVectors(NamedTuple):
    """The vectors of a block, one row per expert, in the order of `block_stacks`."""

    norm1_weight: Tensor
    """(E, D)"""
    norm1_bias: Tensor
    """(E, D)"""
    qkv_bias: Tensor
    """(E, 3 D)"""
    attn_norm_weight: Tensor
    """(E, D)"""
    attn_norm_bias: Tensor
    """(E, D)"""
    proj_bias: Tensor
    """(E, D), added with the branch of attention."""
    norm2_weight: Tensor
    """(E, D)"""
    norm2_bias: Tensor
    """(E, D)"""
    fc1_bias: Tensor
    """(E, F)"""
    subln_weight: Tensor
    """(E, F)"""
    subln_bias: Tensor
    """(E, F)"""
    fc2_bias: Tensor
    """(E, D), added with the branch of the experts."""

    @property
    def attention(self) -> AttentionVectors:
        return AttentionVectors(self.qkv_bias, self.attn_norm_weight, self.attn_norm_bias)

    @property
    def feed_forward(self) -> FeedForwardVectors:
        return FeedForwardVectors(self.norm2_weight, self.norm2_bias, self.fc1_bias, self.subln_weight, self.subln_bias)


def block_stacks(
    dim: int, ffn_dim: int, attention_experts: tuple[str, ...], ffn_experts: tuple[str, ...]
) -> tuple[Stack, ...]:
    """Return the stacks of a block, in the order of BlockVectors."""
    return (
        Stack("norm1.{}.weight", attention_experts, dim),
        Stack("norm1.{}.bias", attention_experts, dim),
        Stack("attn.qkv.{}.bias", attention_experts, 3 * dim),
        Stack("attn.norm.{}.weight", attention_experts, dim),
        Stack("attn.norm.{}.bias", attention_experts, dim),
        Stack("attn.proj.{}.bias", attention_experts, dim),
        Stack("norm2.{}.weight", ffn_experts, dim),
        Stack("norm2.{}.bias", ffn_experts, dim),
        Stack("experts.{}.fc1.bias", ffn_experts, ffn_dim),
        Stack("experts.{}.norm.weight", ffn_experts, ffn_dim),
        Stack("experts.{}.norm.bias", ffn_experts, ffn_dim),
        Stack("experts.{}.fc2.bias", ffn_experts, dim),
    )
