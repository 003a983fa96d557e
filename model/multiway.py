"""The packed Multiway Transformer of BEiT-3: images, texts and pairs in one forward.

One forward handles all three kinds. ZeRO-3 then gathers each block once per step instead of once per kind, the matrix
products are three times as tall, and every parameter is used in every step, which ZeRO-3 needs (see model/experts.py).

Source: "Image as a Foreign Language" (arXiv 2208.10442), section 2.1; sub-LayerNorm as in torchscale.
Shapes: I image-only samples, P pairs, T texts; V image tokens, C caption tokens, L text tokens; N packed rows, D dim.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.attention import MultiwayAttention
from model.block_vectors import BlockVectors, block_stacks
from model.checkpointing import call_checkpointed
from model.config import KEEP_EVERYTHING, Checkpointing, CheckpointingMode, KernelChoice, MultiwayConfig
from model.embeddings import TextEmbedding, VisionEmbedding
from model.experts import ExpertFeedForward, FinalNorm, NoFinalNorm
from model.kernels.backend import Backend, choose_backend
from model.kernels.expert_norm import expert_norm
from model.kernels.residual_norm import residual_norm
from model.kernels.token_assembly import assemble_tokens
from model.kv_cache import KeyValueCache, LayerCache, decoding_mask
from model.layout import SHARED, THREE_EXPERTS, TWO_EXPERTS, PackedLayout, packed_layout, unpadded_texts
from model.residual import Branch, add_branch
from model.stacked_vectors import register_vectors, split_vectors


@dataclass(frozen=True, eq=False)
class MultiwayInputs:
    """The inputs of one packed step. Any of I, P, T may be 0. Padding follows the text: no token comes after it."""

    images: Tensor
    """(I + P, 3, H, W) normalised pixels, the image-only samples first; positions are interpolated if the size is not
    the config's image_size."""
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
    """Whether to use the captioner's attention: an image sees only itself, a caption token its image, itself and the
    caption tokens before it."""
    caption_lengths: tuple[int, ...] | None = None
    """Number of tokens of each caption. The layout needs them on the host, where the loader knows them; None reads them
    from the device, which makes the host wait for it."""
    text_lengths: tuple[int, ...] | None = None
    """Number of tokens of each text, likewise."""

    def layout(self) -> PackedLayout:
        """Return the layout of these samples, without rows for padding."""
        image_tokens = self.image_mask.shape[1] + 1  # + 1: the class token
        pair_mask = None
        if self.causal_captions:
            pair_mask = captioner_mask(image_tokens, self.caption_ids.shape[1], self.caption_ids.device)
        captions = unpadded_texts(self.caption_padding, self.caption_lengths)
        texts = unpadded_texts(self.text_padding, self.text_lengths)
        return packed_layout(len(self.images) - len(self.caption_ids), image_tokens, captions, texts, pair_mask)


def captioner_mask(image_tokens: int, caption_tokens: int, device: torch.device) -> Tensor:
    """Return a (V + C, V + C) bool mask, True where the row's token may see the column's."""
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


@dataclass(frozen=True)
class BlockStates:
    """The residual stream after some blocks, before the final norm: features of several depths, from one forward."""

    blocks: frozenset[int]
    """Numbers of the blocks, 1 = the first."""
    states: dict[int, MultiwayStates] = field(default_factory=dict)
    """Their states, filled by a forward."""


# A block is the usual pre-norm block, x = x + attn(norm1(x)), x = x + experts(norm2(x)), but a branch is added where
# the next norm reads the sum: bias, stochastic depth, addition and LayerNorm are then one pass over memory
# (model/kernels/residual_norm.py). So a block receives a branch that is not yet added and hands on its own; the next
# block or the final norm adds it. A branch leaves its last matrix product without bias for the same reason.
class MultiwayBlock(nn.Module):
    """Attention and modality experts, each with a norm before it and stochastic depth per sample:

        x = x + branch;  branch = attn(norm1(x))
        x = x + branch;  branch = experts(norm2(x))

    Takes and returns x and branch.
    """

    vectors: nn.Parameter
    """All norms and biases: see model/stacked_vectors.py."""

    def __init__(self, config: MultiwayConfig, has_vl_expert: bool):
        super().__init__()
        attention_experts = SHARED if config.attention == "shared" else TWO_EXPERTS
        ffn_experts = THREE_EXPERTS if has_vl_expert else TWO_EXPERTS
        self.stacks = block_stacks(config.dim, config.ffn_dim, attention_experts, ffn_experts)
        register_vectors(self, self.stacks)
        self.attn = MultiwayAttention(config.dim, config.num_heads, attention_experts)
        self.experts = ExpertFeedForward(config.dim, config.ffn_dim, ffn_experts)

    def forward(
        self,
        x: Tensor,
        branch: Branch | None,
        layout: PackedLayout,
        backend: Backend = "reference",
        scales: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[Tensor, Branch]:
        """Return the residual stream (N, D) and the experts' branch, which is not yet added to it.

        x: (N, D), the residual stream; branch: added to it first, None if nothing is left to add (the first block, and
        after `_block_and_add`); scales: (2, N) float32 factors of the two branches, None = 1; cache: see
        `MultiwayAttention`.
        """
        vectors = BlockVectors(*split_vectors(self.vectors, self.stacks))
        attention_rows, experts_rows = layout.rows(self.attn.experts), layout.rows(self.experts.experts)
        attention_scale, experts_scale = (None, None) if scales is None else scales
        if branch is None:
            normed = expert_norm(x, vectors.norm1_weight, vectors.norm1_bias, attention_rows, backend)
        else:
            x, normed = residual_norm(x, branch, vectors.norm1_weight, vectors.norm1_bias, attention_rows, backend)
        output = self.attn(normed, vectors.attention, layout, backend, cache)
        branch = Branch(output, vectors.proj_bias, attention_rows, attention_scale)
        x, output = self.experts(x, branch, vectors.feed_forward, layout, backend)
        return x, Branch(output, vectors.fc2_bias, experts_rows, experts_scale)

    @property
    def last_weights(self) -> list[Tensor]:
        """Weights of the last matrix product, one per expert."""
        return self.experts.each("fc2.weight")


BlockCall = Callable[..., tuple[Tensor, Branch]]
"""A block, or a function that calls one with the same arguments."""


def _block_and_add(
    block: BlockCall,
    x: Tensor,
    branch: Branch | None,
    layout: PackedLayout,
    backend: Backend,
    scales: Tensor | None,
) -> tuple[Tensor, None]:
    """Call a block and add its last branch too: the next checkpoint then keeps one (N, D) matrix instead of two."""
    x, branch = block(x, branch, layout, backend, scales)
    return add_branch(x, branch), None


def _block_in(block: MultiwayBlock, dtype: torch.dtype, *arguments: Any) -> tuple[Tensor, Branch]:
    parameters = {name: parameter.to(dtype) for name, parameter in block.named_parameters()}
    return cast(tuple[Tensor, Branch], functional_call(block, parameters, arguments))


def call_block(
    block: MultiwayBlock,
    mode: CheckpointingMode,
    x: Tensor,
    branch: Branch | None,
    layout: PackedLayout,
    backend: Backend,
    scales: Tensor | None = None,
    cache: LayerCache | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Branch | None]:
    """Return the residual stream and the branch of a block, keeping the activations that the mode keeps.

    dtype: cast the block's parameters to it in this call, as torch.autocast does in torch's own layers.
    """
    call: BlockCall = block if dtype is None else partial(_block_in, block, dtype)
    if mode == "none":
        return call(x, branch, layout, backend, scales, cache)
    # recomputing a block would extend its cache again
    assert cache is None, "a cache is for inference: call under torch.no_grad()"
    function = partial(_block_and_add, call) if mode == "full" else call
    last_weights = [] if backend == "compile" else block.last_weights
    return call_checkpointed(mode, function, x, branch, layout, backend, scales, last_weights=last_weights)


class MultiwayTransformer(nn.Module):
    """Vision encoder, language encoder, dual encoder, fusion encoder and captioner in one set of weights.

    The inputs of a call decide which of them it is: images, texts, both, pairs, or pairs with `causal_captions`.
    """

    def __init__(
        self,
        config: MultiwayConfig,
        kernels: KernelChoice = "auto",
        checkpointing: Checkpointing = KEEP_EVERYTHING,
        has_final_norm: bool = True,
    ):
        """has_final_norm: some heads of tasks begin with a norm of their own, and the last block's has no use there."""
        super().__init__()
        self.config = config
        self.kernels = kernels
        self.checkpointing = checkpointing
        self.vision_embed = VisionEmbedding(config.dim, config.image_size, config.patch_size)
        self.text_embed = TextEmbedding(config.dim, config.vocab_size, config.max_text_length)
        # only the top blocks have vision-language experts: below, both parts of a pair use those of their modality
        first_vl_layer = config.depth - config.num_vl_layers
        self.blocks = nn.ModuleList(MultiwayBlock(config, i >= first_vl_layer) for i in range(config.depth))
        final_experts = SHARED if config.attention == "shared" else TWO_EXPERTS
        self.norm = FinalNorm(config.dim, final_experts) if has_final_norm else NoFinalNorm()

    def forward(
        self,
        inputs: MultiwayInputs,
        drop_path_scale: Tensor | None = None,
        cache: KeyValueCache | None = None,
        block_states: BlockStates | None = None,
    ) -> MultiwayStates:
        """Return the final hidden states.

        drop_path_scale: (depth, 2, I + P + T) factor of each branch of each sample (see
        `model.stochastic_depth.drop_path_scales`), None = no stochastic depth; cache: filled with the keys and values
        of the pairs, for `decode`; block_states: filled with the states after the blocks that it names.
        """
        backend = choose_backend(self.kernels, inputs.images.device)
        layout = inputs.layout()
        x = self.pack(inputs, layout, backend)
        if drop_path_scale is not None:
            # from samples to rows: all tokens of a sample, both parts of a pair, are kept or dropped together
            drop_path_scale = drop_path_scale[:, :, layout.sample_of_row()].contiguous()  # (depth, 2, N)
        branch = None
        for i, block in enumerate(cast(Iterable[MultiwayBlock], self.blocks)):
            scales = None if drop_path_scale is None else drop_path_scale[i]
            layer_cache = None if cache is None else cache.layers[i]
            mode = self.checkpointing.mode_of(i) if torch.is_grad_enabled() else "none"
            x, branch = call_block(block, mode, x, branch, layout, backend, scales, layer_cache)
            if block_states is not None and i + 1 in block_states.blocks:
                # a block hands on its last branch, which the next one adds; here the sum is asked for
                added = x if branch is None else add_branch(x, branch)
                block_states.states[i + 1] = self.unpack(added, inputs, layout)
        if cache is not None:
            cache.num_caption_tokens = layout.captions.max_seqlen
        return self.unpack(self.norm(x, layout, backend, branch), inputs, layout)

    @torch.no_grad()
    def decode(self, caption_ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the states of the next n tokens of every caption; `cache` holds the earlier ones and is extended.

        (P, n) ids -> (P, n, D); with the K beams of the cache, (P, n, K) -> (P, n, K, D).
        """
        num_pairs, num_new, num_beams = len(caption_ids), caption_ids.shape[1], cache.num_beams
        ids = caption_ids.flatten(1)  # (P, n * K), the beams of one time side by side, as in the cache
        assert ids.shape[1] == num_new * num_beams
        captions = unpadded_texts(torch.zeros_like(ids, dtype=torch.bool), (ids.shape[1],) * num_pairs)
        pair_mask = decoding_mask(cache, num_new, ids.device)
        no_texts = unpadded_texts(pair_mask[:0], ())
        layout = packed_layout(0, 0, captions, no_texts, pair_mask)
        # an image's keys and values never change, as it sees only itself: only caption tokens have rows here
        words, positions = self.text_embed(ids.flatten(), num_new, cache.num_caption_tokens)
        x, branch = words + positions.repeat_interleave(num_beams, 0).repeat(num_pairs, 1), None
        backend = choose_backend(self.kernels, x.device)
        for block, layer_cache in zip(self.blocks, cache.layers, strict=True):
            x, branch = block(x, branch, layout, backend, cache=layer_cache)
        cache.num_caption_tokens += num_new
        return self.norm(x, layout, backend, branch).view(*caption_ids.shape, -1)

    def pack(self, inputs: MultiwayInputs, layout: PackedLayout, backend: Backend = "reference") -> Tensor:
        """Return the embeddings in the order of the layout, (N, D)."""
        images = self.vision_embed(inputs.images, inputs.image_mask)
        # captions and texts in one call, so that ZeRO-3 gathers the table of words once
        ids = torch.cat([layout.captions.unpad(inputs.caption_ids), layout.texts.unpad(inputs.text_ids)])
        texts = self.text_embed(ids, max(inputs.caption_ids.shape[1], inputs.text_ids.shape[1]))
        return assemble_tokens(images, texts, inputs.image_mask, *layout.word_positions(), backend)

    def unpack(self, x: Tensor, inputs: MultiwayInputs, layout: PackedLayout) -> MultiwayStates:
        """Return the states (N, D) by sample."""
        num_images = len(inputs.images)
        # image-only samples and the images of pairs are neighbours, so all images are one view
        sizes = [num_images * layout.image_tokens, layout.captions.num_rows, layout.texts.num_rows]
        images, captions, texts = x.split(sizes)
        return MultiwayStates(
            images=images.view(num_images, layout.image_tokens, x.shape[1]),
            captions=layout.captions.pad(captions, inputs.caption_ids.shape[1]),
            texts=layout.texts.pad(texts, inputs.text_ids.shape[1]),
        )
