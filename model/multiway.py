"""The packed Multiway Transformer of BEiT-3: images, texts and pairs in one forward.

Source: "Image as a Foreign Language" (arXiv 2208.10442), section 2.1; SubLN as in torchscale.
Shapes: I image-only samples, P pairs, T texts; V image tokens, C caption tokens, L text tokens; N packed rows, D dim.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from model.attention import MultiwayAttention
from model.checkpointing import call_checkpointed
from model.config import KEEP_EVERYTHING, Checkpointing, KernelChoice, MultiwayConfig
from model.embeddings import TextEmbedding, VisionEmbedding
from model.experts import ExpertFeedForward, ExpertNorm
from model.kernels.backend import Backend, choose_backend
from model.kernels.residual_norm import Branch, residual_reference
from model.kernels.token_assembly import assemble_tokens
from model.kv_cache import KeyValueCache, LayerCache
from model.layout import SHARED, THREE_EXPERTS, TWO_EXPERTS, PackedLayout, pack, tokens_of


@dataclass(frozen=True, eq=False)
class MultiwayInputs:
    """One packed step. Any of I, P, T may be 0. Padding stands behind its text: no token follows it."""

    images: Tensor
    """(I + P, 3, H, W) normalised pixels, the image-only samples first; at another size than the config's image_size
    positions are interpolated."""
    image_mask: Tensor
    """(I + P, V - 1) bool, True = replaced by the mask token."""
    caption_ids: Tensor
    """(P, C) word ids."""
    caption_padding: Tensor
    """(P, C) bool, True = padding."""
    text_ids: Tensor
    """(T, L) word ids."""
    text_padding: Tensor
    """(T, L) bool, True = padding."""
    causal_captions: bool = False
    """The captioner's attention: images see themselves only, a caption token its image and the tokens before it."""
    caption_lengths: tuple[int, ...] | None = None
    """Tokens of each caption, known to the host. None: it asks the device, and waits."""
    text_lengths: tuple[int, ...] | None = None

    def layout(self) -> PackedLayout:
        """The layout of these samples, without rows for padding."""
        image_tokens = self.image_mask.shape[1] + 1  # and the class token
        pair_mask = None
        if self.causal_captions:
            pair_mask = captioner_mask(image_tokens, self.caption_ids.shape[1], self.caption_ids.device)
        captions = tokens_of(self.caption_padding, self.caption_lengths)
        texts = tokens_of(self.text_padding, self.text_lengths)
        return pack(len(self.images) - len(self.caption_ids), image_tokens, captions, texts, pair_mask)


def captioner_mask(image_tokens: int, caption_tokens: int, device: torch.device) -> Tensor:
    """(V + C, V + C) bool, True where the row's token may see the column's."""
    total = image_tokens + caption_tokens
    causal = torch.ones(total, total, dtype=torch.bool, device=device).tril()
    causal[:image_tokens, :image_tokens] = True
    return causal


class MultiwayStates(NamedTuple):
    """Final hidden states of a packed step. A tuple, because ZeRO-3's hooks look for tensors in tuples only."""

    images: Tensor
    """(I + P, V, D), class token first."""
    captions: Tensor
    """(P, C, D), zero at padding."""
    texts: Tensor
    """(T, L, D), zero at padding."""


class MultiwayBlock(nn.Module):
    """x + attention(norm1(x)), then x + experts(norm2(x)); each branch scaled per sample by stochastic depth.

    The last branch is handed on, not added: whatever norms the sum next adds it in the same pass over memory.
    """

    def __init__(self, config: MultiwayConfig, has_vl_expert: bool):
        super().__init__()
        dim = config.dim
        attention_experts = SHARED if config.attention == "shared" else TWO_EXPERTS
        ffn_experts = THREE_EXPERTS if has_vl_expert else TWO_EXPERTS
        self.norm1 = ExpertNorm(dim, attention_experts)
        self.attn = MultiwayAttention(dim, config.num_heads, attention_experts)
        self.norm2 = ExpertNorm(dim, ffn_experts)
        self.experts = ExpertFeedForward(dim, config.ffn_dim, ffn_experts)

    def forward(
        self,
        x: Tensor,
        branch: Branch | None,
        layout: PackedLayout,
        backend: Backend = "reference",
        scales: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Branch]:
        """x: (N, D), the residual stream; branch: of the block before, still to be added; scales: (2, N) float32
        factors of the two branches, None = 1; cache: see `MultiwayAttention`.

        Returns the residual stream (N, D) and the experts' branch.
        """
        attention_scale, experts_scale = (None, None) if scales is None else scales
        x, normed = self.norm1(x, branch, layout, backend)
        branch = Branch(
            self.attn(normed, layout, backend, cache), bias=self.attn.proj.stacked("bias"), scale=attention_scale
        )
        x, output = self.experts(x, branch, self.norm2, layout, backend)
        return x, Branch(output, bias=self.experts.stacked("fc2.bias"), scale=experts_scale)

    @property
    def last_weights(self) -> list[Tensor]:
        """Of the last matrix product, each expert's."""
        return self.experts.each("fc2.weight")


def _block_alone(
    block: MultiwayBlock,
    x: Tensor,
    branch: Branch | None,
    layout: PackedLayout,
    backend: Backend,
    scales: Tensor | None,
) -> tuple[Tensor, None]:
    """A block that adds its last branch itself: the next one then has one matrix to keep, not two."""
    x, branch = block(x, branch, layout, backend, scales)
    return residual_reference(x, branch, layout.rows(len(branch.bias))), None


class MultiwayTransformer(nn.Module):
    """Vision encoder, language encoder, dual encoder, fusion encoder and captioner in one set of weights.

    Which of them a call is, follows from its inputs: images, texts, both, pairs, pairs with `causal_captions`.
    """

    def __init__(
        self, config: MultiwayConfig, kernels: KernelChoice = "auto", checkpointing: Checkpointing = KEEP_EVERYTHING
    ):
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.checkpointing = checkpointing
        self.vision_embed = VisionEmbedding(config.dim, config.image_size, config.patch_size)
        self.text_embed = TextEmbedding(config.dim, config.vocab_size, config.max_text_length)
        first_vl_layer = config.depth - config.num_vl_layers
        self.blocks = nn.ModuleList(MultiwayBlock(config, i >= first_vl_layer) for i in range(config.depth))
        final_experts = SHARED if config.attention == "shared" else TWO_EXPERTS
        self.norm = ExpertNorm(config.dim, final_experts)

    def forward(
        self, inputs: MultiwayInputs, drop_path_scale: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> MultiwayStates:
        """drop_path_scale: (depth, 2, I + P + T) factor of each branch of each sample (see
        `model.stochastic_depth.drop_path_scales`), None = no stochastic depth; cache: filled with the keys and values
        of the pairs, for `decode`."""
        backend = choose_backend(self.kernels, inputs.images.device)
        layout = inputs.layout()
        x = self.pack(inputs, layout, backend)
        if drop_path_scale is not None:
            drop_path_scale = drop_path_scale[:, :, layout.sample_of_row()].contiguous()  # (depth, 2, N)
        branch = None
        for i, block in enumerate(cast(Iterable[MultiwayBlock], self.blocks)):
            scales = None if drop_path_scale is None else drop_path_scale[i]
            layer_cache = None if cache is None else cache.layers[i]
            mode = self.checkpointing.mode_of(i) if torch.is_grad_enabled() else "none"
            if mode == "none":
                x, branch = block(x, branch, layout, backend, scales, layer_cache)
            else:
                assert cache is None, "a cache is for inference: call under torch.no_grad()"
                function = partial(_block_alone, block) if mode == "full" else block
                last_weights = [] if backend == "compile" else block.last_weights
                x, branch = call_checkpointed(
                    mode, function, x, branch, layout, backend, scales, last_weights=last_weights
                )
        if cache is not None:
            cache.num_caption_tokens = layout.captions.longest
        _, x = self.norm(x, branch, layout, backend)
        return self.unpack(x, inputs, layout)

    @torch.no_grad()
    def decode(self, caption_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """The next n tokens of every caption, after those in `cache`, which is extended. (P, n) ids -> (P, n, D)."""
        num_pairs, num_new = caption_ids.shape
        # a new token sees all earlier ones and, of the new ones, itself and those before it
        pair_mask = torch.ones(num_new, cache.num_tokens + num_new, dtype=torch.bool, device=caption_ids.device)
        captions = tokens_of(torch.zeros_like(caption_ids, dtype=torch.bool), (num_new,) * num_pairs)
        no_texts = tokens_of(pair_mask[:0], ())
        layout = pack(0, 0, captions, no_texts, pair_mask.tril(cache.num_tokens))
        words, positions = self.text_embed(caption_ids.flatten(), num_new, cache.num_caption_tokens)
        x, branch = words + positions.repeat(num_pairs, 1), None
        backend = choose_backend(self.kernels, x.device)
        for block, layer_cache in zip(self.blocks, cache.layers, strict=True):
            x, branch = block(x, branch, layout, backend, cache=layer_cache)
        cache.num_caption_tokens += num_new
        _, x = self.norm(x, branch, layout, backend)
        return x.view(num_pairs, num_new, -1)

    def pack(self, inputs: MultiwayInputs, layout: PackedLayout, backend: Backend = "reference") -> Tensor:
        """Embeddings in the order of the layout, (N, D)."""
        images = self.vision_embed(inputs.images, inputs.image_mask)
        ids = torch.cat([layout.captions.take(inputs.caption_ids), layout.texts.take(inputs.text_ids)])
        texts = self.text_embed(ids, max(inputs.caption_ids.shape[1], inputs.text_ids.shape[1]))
        return assemble_tokens(images, texts, inputs.image_mask, *layout.words(), backend)

    def unpack(self, x: Tensor, inputs: MultiwayInputs, layout: PackedLayout) -> MultiwayStates:
        """(N, D) -> states by sample."""
        num_images = len(inputs.images)
        sizes = [num_images * layout.image_tokens, layout.captions.num_rows, layout.texts.num_rows]
        images, captions, texts = x.split(sizes)
        return MultiwayStates(
            images=images.view(num_images, layout.image_tokens, x.shape[1]),
            captions=layout.captions.put(captions, inputs.caption_ids.shape[1]),
            texts=layout.texts.put(texts, inputs.text_ids.shape[1]),
        )
