"""Self-attention over the packed rows: within an image, within a text, and jointly over a pair.

The paper shares attention between the modalities; the released checkpoints and torchscale hold every
projection and norm once per modality ("decoupled"). Both are here: `experts` names the copies.

Shapes: N packed rows, R rows of some sequences, B samples, S tokens of a sample, D dim, H heads, K head dim.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.experts import ExpertLinear, ExpertNorm
from model.kernels.backend import Backend
from model.kv_cache import LayerCache
from model.layout import PackedLayout, Sequences

SequenceAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""torch.nn.attention.varlen.varlen_attn: queries, keys and values (R, H, K), where sequences of queries and of keys
begin, and the longest of each."""


def find_sequence_attention(qkv: Tensor) -> SequenceAttention | None:
    """FlashAttention over sequences of different lengths, where torch has it for such queries; else None."""
    head_dim = qkv.shape[-1]
    fits = (
        qkv.is_cuda
        and qkv.numel() > 0
        and qkv.dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
    )
    return _import_sequence_attention() if fits else None


@functools.cache
def _import_sequence_attention() -> SequenceAttention | None:
    try:
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except (ImportError, AttributeError):
        return None


def attend(qkv: Tensor, sequences: Sequences, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
    """Softmax attention within sequences: in one call where they are equally long or torch can, else in a call each.

    qkv: (R, 3, H, K); mask: (queries, keys) bool, True where a query may see a key, for the longest sequence: of others
    its last queries and keys are left out; cache: what went before, for equally long sequences alone; the mask's first
    keys are its. Returns (R, H * K).
    """
    if sequences.are_even:
        num_samples = len(sequences.lengths)
        return attend_alike(qkv.view(num_samples, sequences.longest, *qkv.shape[1:]), mask, cache).flatten(0, 1)
    assert cache is None
    sequence_attention = find_sequence_attention(qkv) if mask is None else None
    if sequence_attention is not None:
        (q, k, v), begins, longest = qkv.unbind(1), sequences.begins, sequences.longest
        return sequence_attention(q, k, v, begins, begins, longest, longest).flatten(1)
    return torch.cat([attend_alike(part[None], mask)[0] for part in qkv.split(sequences.lengths) if len(part)])


def attend_alike(qkv: Tensor, mask: Tensor | None = None, cache: LayerCache | None = None) -> Tensor:
    """Softmax attention of equally long samples, (B, S, 3, H, K) -> (B, S, H * K); mask, cache: as in `attend`."""
    q, k, v = qkv.unbind(2)  # each (B, S, H, K)
    if cache is not None:
        k, v = cache.extend(k, v)
    if mask is not None:
        num_left_out = len(mask) - qkv.shape[1]
        mask = mask[: len(mask) - num_left_out, : mask.shape[1] - num_left_out]
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class _Reordered(torch.autograd.Function):
    """Rows in another order. Backward is a copy, too: torch's own adds rows up, as some could be there twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grads[0].index_select(0, inverse), None, None


class MultiwayAttention(nn.Module):
    """Multi-head self-attention with a LayerNorm before the output projection (SubLN)."""

    def __init__(self, dim: int, num_heads: int, experts: tuple[str, ...]):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = ExpertLinear(dim, 3 * dim, experts)
        self.norm = ExpertNorm(dim, experts)
        self.proj = ExpertLinear(dim, dim, experts)

    def forward(
        self, x: Tensor, layout: PackedLayout, backend: Backend = "reference", cache: LayerCache | None = None
    ) -> Tensor:
        """(N, D) -> (N, D), without the bias of `proj`: it is added where the branch joins the residual stream.

        cache: keys and values of the pairs' tokens that went before; extended.
        """
        dim = x.shape[1]
        qkv = self.qkv(x, layout, backend).view(len(x), 3, self.num_heads, dim // self.num_heads)
        # one split, whose backward is one concatenation; each slice's would fill a whole matrix
        images, pairs, texts = qkv.split([layout.images.num_rows, layout.pairs.num_rows, layout.texts.num_rows])
        pairs = _Reordered.apply(pairs, layout.pair_order, layout.pair_places)
        pairs = attend(pairs, layout.pairs, layout.pair_mask, cache)
        pairs = _Reordered.apply(pairs, layout.pair_places, layout.pair_order)
        x = torch.cat([attend(images, layout.images), pairs, attend(texts, layout.texts)])
        _, x = self.norm(x, None, layout, backend)
        return self.proj(x, layout, backend, add_bias=False)
