"""Self-attention over the packed rows: within an image, within a text, and jointly over a pair.

The paper shares attention between the modalities; the released checkpoints and torchscale have a copy of every
projection and norm per modality ("decoupled"). Both are here: `experts` names the copies.

Shapes: N packed rows, R rows of some sequences, B samples, S tokens of a sample, D dim, H heads, K head dim, E experts.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.experts import ExpertLinear
from model.kernels.backend import Backend
from model.kernels.expert_norm import expert_norm
from model.kv_cache import LayerCache
from model.layout import PackedLayout, Sequences

VarlenAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""Signature of torch.nn.attention.varlen.varlen_attn: queries, keys, values (R, H, K), cu_seqlens of queries and keys,
max_seqlen of queries and keys."""


def find_varlen_attention(qkv: Tensor) -> VarlenAttention | None:
    """Return FlashAttention over sequences of different lengths if torch has it for such queries, else None."""
    head_dim = qkv.shape[-1]
    fits = (
        qkv.is_cuda
        and qkv.numel() > 0
        and qkv.dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
    )
    return _import_varlen_attention() if fits else None


@functools.cache
def _import_varlen_attention() -> VarlenAttention | None:
    try:  # a prototype of torch, which may move
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


def attend(qkv: Tensor, sequences: Sequences, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
    """Return softmax attention within each sequence, (R, 3, H, K) -> (R, H * K).

    One call if all are equally long or torch has attention over different lengths, otherwise one call per sequence.

    mask: (queries, keys) bool for the longest sequence, True where a query may see a key; shorter sequences use it
    without its last queries and keys. cache: earlier keys and values, for sequences of equal length only; the first
    keys of the mask are the cache's.
    """
    if sequences.have_equal_lengths:
        num_samples = len(sequences.lengths)
        qkv = qkv.view(num_samples, sequences.max_seqlen, *qkv.shape[1:])
        return attend_equal_lengths(qkv, mask, cache).flatten(0, 1)
    assert cache is None
    # varlen attention takes no mask of one's own; captions with a causal mask are few, and go one by one
    varlen_attention = find_varlen_attention(qkv) if mask is None else None
    if varlen_attention is not None:
        (q, k, v), cu_seqlens, max_seqlen = qkv.unbind(1), sequences.cu_seqlens, sequences.max_seqlen
        return varlen_attention(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen).flatten(1)
    return torch.cat([attend_equal_lengths(part[None], mask)[0] for part in qkv.split(sequences.lengths) if len(part)])


def attend_equal_lengths(qkv: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
    """Return softmax attention of equally long samples, (B, S, 3, H, K) -> (B, S, H * K); mask, cache: see `attend`."""
    q, k, v = qkv.unbind(2)  # each (B, S, H, K)
    if cache is not None:
        k, v = cache.extend(k, v)
    if mask is not None:
        # cut at the end on both sides: the keys at the beginning are the image's and the cache's
        num_left_out = len(mask) - qkv.shape[1]
        mask = mask[: len(mask) - num_left_out, : mask.shape[1] - num_left_out]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class _PermuteRows(torch.autograd.Function):
    """Rows in another order.

    Backward of a permutation is a copy by its inverse. torch's backward of index_select is an index_add, as it cannot
    know that no row is selected twice: slower, and by atomics on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


class AttentionVectors(NamedTuple):
    """Norm and biases of attention, one row per expert, but for the bias of `proj`."""

    qkv_bias: Tensor
    """(E, 3 D)"""
    norm_weight: Tensor
    """(E, D)"""
    norm_bias: Tensor
    """(E, D)"""


class MultiwayAttention(nn.Module):
    """Multi-head self-attention with a LayerNorm before the output projection.

    The norm is torchscale's sub-LayerNorm: without it the output of `proj` grows with depth, and deep networks need
    smaller learning rates. Source: "Foundation Transformers" (arXiv 2210.06423).
    """

    def __init__(self, dim: int, num_heads: int, experts: tuple[str, ...]):
        super().__init__()
        self.num_heads = num_heads
        self.experts = experts
        self.qkv = ExpertLinear(dim, 3 * dim, experts)
        self.proj = ExpertLinear(dim, dim, experts)

    def forward(
        self,
        x: Tensor,
        vectors: AttentionVectors,
        layout: PackedLayout,
        backend: Backend = "reference",
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(N, D) -> (N, D), without the bias of `proj`: it is added where the branch joins the residual stream.

        cache: keys and values of the pairs' earlier tokens; those of x are appended.
        """
        dim = x.shape[1]
        qkv = self.qkv(x, layout, backend, vectors.qkv_bias).view(len(x), 3, self.num_heads, dim // self.num_heads)
        # one split, whose backward is one concatenation; the backward of each slice would fill a whole (N, 3 D) matrix
        images, pairs, texts = qkv.split([layout.images.num_rows, layout.pairs.num_rows, layout.texts.num_rows])
        # all images of pairs come before all captions; attention needs each caption beside its image
        pairs = _PermuteRows.apply(pairs, layout.pair_order, layout.inverse_pair_order)
        pairs = attend(pairs, layout.pairs, layout.pair_mask, cache)
        pairs = _PermuteRows.apply(pairs, layout.inverse_pair_order, layout.pair_order)
        x = torch.cat([attend(images, layout.images), pairs, attend(texts, layout.texts)])
        x = expert_norm(x, vectors.norm_weight, vectors.norm_bias, layout.rows(self.experts), backend)
        return self.proj(x, layout, backend)
