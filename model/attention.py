"""Self-attention over the packed rows: within an image, within a text, and jointly over a pair.

The paper shares attention between the modalities; the released checkpoints and torchscale hold every
projection and norm once per modality ("decoupled"). Both are here: `experts` names the copies.

Shapes: N packed rows, B samples, S tokens of a sample, D dim, H heads, K head dim.
"""

import torch
from torch import Tensor, nn

from model.experts import ExpertLinear, ExpertNorm
from model.kernels.backend import Backend
from model.kv_cache import LayerCache
from model.layout import PackedLayout


def attend(qkv: Tensor, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
    """Softmax attention of one group of equally long samples.

    qkv: (B, S, 3, H, K); mask: bool, broadcast to (B, 1, S, keys), True where a query may see a key, the keys of an
    earlier call in `cache` first. Returns (B, S, H * K).
    """
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
        qkv = self.qkv(x, layout).view(len(x), 3, self.num_heads, dim // self.num_heads)
        group = qkv.shape[1:]
        images = qkv[layout.image_rows].view(layout.num_images, layout.image_tokens, *group)
        pair_images = qkv[layout.pair_image_rows].view(layout.num_pairs, layout.image_tokens, *group)
        pair_texts = qkv[layout.pair_text_rows].view(layout.num_pairs, layout.caption_tokens, *group)
        texts = qkv[layout.text_rows].view(layout.num_texts, layout.text_tokens, *group)

        pairs = attend(torch.cat([pair_images, pair_texts], dim=1), layout.pair_mask, cache)
        pair_images, pair_texts = pairs.split([layout.image_tokens, layout.caption_tokens], dim=1)
        groups = [attend(images, None), pair_images, pair_texts, attend(texts, layout.text_mask)]
        x = torch.cat([part.reshape(-1, dim) for part in groups])  # back to (N, D)
        _, x = self.norm(x, None, layout, backend)
        return self.proj(x, layout, add_bias=False)
