"""Self-attention over the packed rows: within an image, within a text, and jointly over a pair.

The paper shares attention between the modalities; the released checkpoints and torchscale hold every
projection and norm once per modality ("decoupled"). Both are here: `experts` names the copies.

Shapes: N packed rows, B samples, S tokens of a sample, D dim, H heads, K head dim.
"""

import functools
import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.experts import ExpertLinear, ExpertNorm
from model.kernels.backend import Backend
from model.kv_cache import LayerCache
from model.layout import PackedLayout

SequenceAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
"""torch.nn.attention.varlen.varlen_attn: queries, keys and values (total, H, K), where sequences of queries and of keys
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


def attend(
    qkv: Tensor, mask: Tensor | None, sequences: Tensor | None = None, cache: LayerCache | None = None
) -> Tensor:
    """Softmax attention of one group of equally long samples.

    qkv: (B, S, 3, H, K); mask: bool, broadcast to (B, 1, S, keys), True where a query may see a key, the keys of an
    earlier call in `cache` first; sequences: the same mask as `split_at_padding` gives it, where it can be said so: a
    mask would rule FlashAttention out. Returns (B, S, H * K); at padding the two ways give different numbers.
    """
    num_samples, num_tokens = qkv.shape[:2]
    sequence_attention = find_sequence_attention(qkv) if sequences is not None and cache is None else None
    if sequence_attention is not None and sequences is not None:
        q, k, v = qkv.flatten(0, 1).unbind(1)  # each (B * S, H, K)
        attended = sequence_attention(q, k, v, sequences, sequences, num_tokens, num_tokens)
        return attended.reshape(num_samples, num_tokens, -1)
    q, k, v = qkv.unbind(2)  # each (B, S, H, K)
    if cache is not None:
        k, v = cache.extend(k, v)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


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
        images, pair_images, pair_texts, texts = (
            part.view(*samples, *qkv.shape[1:])
            for part, samples in zip(qkv.split(layout.group_rows), layout.group_samples, strict=True)
        )
        pairs = attend(torch.cat([pair_images, pair_texts], dim=1), layout.pair_mask, layout.pair_sequences, cache)
        pair_images, pair_texts = pairs.split([layout.image_tokens, layout.caption_tokens], dim=1)
        texts = attend(texts, layout.text_mask, layout.text_sequences)
        groups = [attend(images, None), pair_images, pair_texts, texts]
        x = torch.cat([part.reshape(-1, dim) for part in groups])  # back to (N, D)
        _, x = self.norm(x, None, layout, backend)
        return self.proj(x, layout, backend, add_bias=False)
