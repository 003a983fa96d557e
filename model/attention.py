"""Self-attention over the packed rows: within an image, within a text, and jointly over a pair.

The paper shares attention between the modalities; the released checkpoints and torchscale have a copy of every
projection and norm per modality ("decoupled"). Both are here: `experts` names the copies.

Shapes: N packed rows, R rows of some sequences, B samples, S tokens of a sample, D dim, H heads, K head dim, E experts.
"""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.experts import ExpertLinear
from model.kernels.backend import Backend
from model.kernels.expert_norm import expert_norm
from model.kv_cache import LayerCache
from model.layout import PackedLayout, Sequences

VarlenAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""Signature of torch.nn.attention.varlen.varlen_attn: queries, keys, values (R, H, K), cu_seqlens of queries and keys,
max_seqlen of queries and keys."""


def find_varlen_attention(queries: Tensor) -> VarlenAttention | None:
    """Return FlashAttention over sequences of different lengths if torch has it for such queries, else None."""
    head_dim = queries.shape[-1]
    fits = (
        queries.is_cuda
        and queries.numel() > 0
        and queries.dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(queries.device) >= (8, 0)
    )
    return _import_varlen_attention() if fits else None


@functools.cache
def _import_varlen_attention() -> VarlenAttention | None:
    try:  # a prototype of torch, which may move
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


def attend(
    qkv: Iterable[Tensor], sequences: Sequences, mask: Tensor | None = None, cache: LayerCache | None = None
) -> Tensor:
    """Return softmax attention within each sequence, (R, D). qkv: queries, keys and values, each (R, H, K).

    One call if all are equally long or torch has attention over different lengths, otherwise one call per length.

    mask: (queries, keys) bool for the longest sequence, True where a query may see a key; shorter sequences use it
    without its last queries and keys. cache: earlier keys and values, for sequences of equal length only; the first
    keys of the mask are the cache's.
    """
    if sequences.have_equal_lengths:
        num_samples, length = len(sequences.lengths), sequences.max_seqlen
        samples = (x.view(num_samples, length, *x.shape[1:]) for x in qkv)
        return attend_equal_lengths(samples, mask, cache).flatten(0, 1)
    assert cache is None
    q, k, v = qkv
    # varlen attention takes no mask of one's own; captions with a causal mask are few
    varlen_attention = find_varlen_attention(q) if mask is None else None
    if varlen_attention is not None:
        cu_seqlens, max_seqlen = sequences.cu_seqlens, sequences.max_seqlen
        return varlen_attention(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen).flatten(1)
    return _attend_by_length((q, k, v), sequences.lengths, mask)


def _attend_by_length(qkv: Iterable[Tensor], lengths: tuple[int, ...], mask: Tensor | None) -> Tensor:
    """Return the same as `attend`, with one call for all sequences of a length.

    Captions are short: a call for each took longer than their arithmetic.
    """
    parts = [x.split(lengths) for x in qkv]
    places_of: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        places_of.setdefault(length, []).append(place)
    attended: dict[int, Tensor] = {}
    for length, places in places_of.items():
        if length:
            samples = (torch.stack([part[place] for place in places]) for part in parts)
            attended.update(zip(places, attend_equal_lengths(samples, mask).unbind(), strict=True))
    return torch.cat([attended[place] for place in sorted(attended)])


def attend_equal_lengths(qkv: Iterable[Tensor], mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
    """Return softmax attention of equally long samples, three times (B, S, H, K) -> (B, S, D); else as `attend`."""
    q, k, v = qkv
    if cache is not None:
        k, v = cache.extend(k, v)
    if mask is not None:
        # cut at the end on both sides: the keys at the beginning are the image's and the cache's
        num_left_out = len(mask) - q.shape[1]
        mask = mask[: len(mask) - num_left_out, : mask.shape[1] - num_left_out]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def _copy_rows(rows: Tensor, order: Tensor, target: Tensor) -> Tensor:
    """Copy rows[order] into target, both (R, ...); return target.

    As elements of 16 bytes if rows divide into them: torch copies one element per thread, in bfloat16 two bytes.
    """
    source, out = rows.flatten(1), target.flatten(1)
    if all(_has_wide_elements(x) for x in (source, out)):
        source, out = source.view(torch.complex128), out.view(torch.complex128)
    torch.index_select(source, 0, order, out=out)
    return target


def _has_wide_elements(rows: Tensor) -> bool:
    """Return whether every row begins at a multiple of 16 bytes from the beginning of memory, and ends at one."""
    places = (rows.shape[1], rows.stride(0), rows.storage_offset())
    return rows.stride(1) == 1 and all(place * rows.element_size() % 16 == 0 for place in places)


class _SplitKinds(torch.autograd.Function):
    """Queries, keys and values of images, pairs and texts, from the rows of all: nine matrices (R, H, K).

    Those of images and texts are views. All images of pairs come before all captions, and attention needs each caption
    beside its image, so the rows of pairs are copied in another order.

    Backward writes all nine gradients into one matrix, those of pairs in the order of packed rows: 12 N D bytes in
    bfloat16. Autograd would stack the three of each kind, reorder those of pairs by an index_add with atomics, and
    concatenate the kinds: 24 N D, and 12 for each D of a pair's row.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, layout: PackedLayout) -> tuple[Tensor, ...]:
        ctx.layout = layout
        images, pairs, texts = qkv.split(layout.kind_rows)
        pairs = _copy_rows(pairs, layout.pair_order, torch.empty_like(pairs))
        return *images.unbind(1), *pairs.unbind(1), *texts.unbind(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        layout = ctx.layout
        dqkv = grads[0].new_empty(layout.num_rows, 3, *grads[0].shape[1:])
        images, pairs, texts = (part.unbind(1) for part in dqkv.split(layout.kind_rows))
        for target, grad in zip((*images, *texts), (*grads[:3], *grads[6:]), strict=True):
            target.copy_(grad)
        for target, grad in zip(pairs, grads[3:6], strict=True):
            _copy_rows(grad.contiguous(), layout.inverse_pair_order, target)
        return dqkv, None


class _JoinKinds(torch.autograd.Function):
    """The packed rows (N, D) of attention's results for images, pairs and texts: the inverse of `_SplitKinds`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, pairs: Tensor, texts: Tensor, layout: PackedLayout) -> Tensor:
        ctx.layout = layout
        rows = images.new_empty(layout.num_rows, images.shape[1])
        image_rows, pair_rows, text_rows = rows.split(layout.kind_rows)
        image_rows.copy_(images)
        _copy_rows(pairs.contiguous(), layout.inverse_pair_order, pair_rows)
        text_rows.copy_(texts)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, pairs, texts = grads[0].contiguous().split(ctx.layout.kind_rows)
        return images, _copy_rows(pairs, ctx.layout.pair_order, torch.empty_like(pairs)), texts, None


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
        kinds = _SplitKinds.apply(qkv, layout)
        images, pairs, texts = kinds[:3], kinds[3:6], kinds[6:]
        x = _JoinKinds.apply(
            attend(images, layout.images),
            attend(pairs, layout.pairs, layout.pair_mask, cache),
            attend(texts, layout.texts),
            layout,
        )
        x = expert_norm(x, vectors.norm_weight, vectors.norm_bias, layout.rows(self.experts), backend)
        return self.proj(x, layout, backend)
