"""BEiT-3 in plain PyTorch, for transformers.

BEiT-3 is one Transformer for images, texts and image-text pairs ("Image as a Foreign Language", arXiv 2208.10442). All
tokens of a sample attend to each other; what differs by modality is the feed-forward network that a token goes through,
its expert. A sample is one sequence, the image first:

    class token, patches | words        an image alone has no words, a text alone no patches

    x = x + attn(norm1(x))              one attention over the whole sequence
    x = x + experts(norm2(x))           patches: vision expert, words: language expert; in the top `num_vl_layers`
                                        blocks both parts of a pair: vision-language expert

So one set of weights is a vision encoder, a language encoder, a fusion encoder of pairs and a captioner; the inputs of
a call decide which of them it is.

Shapes: B samples, V image tokens (patches and the class token), L words, S = V + L tokens, D hidden size, H heads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import ModelOutput

from .configuration_beit3 import Beit3Config

POSITION_OFFSET = 2
"""Number of unused leading rows of both position tables: fairseq, where BEiT-3 is from, counts positions from 2."""


@dataclass
class Beit3Output(ModelOutput):
    """Hidden states. Those of padding mean nothing."""

    last_hidden_state: Tensor | None = None
    """(B, S, D), after the final norm."""
    image_hidden_state: Tensor | None = None
    """(B, V, D), its part of the image, class token first; None without images."""
    text_hidden_state: Tensor | None = None
    """(B, L, D), its part of the text; None without texts."""
    hidden_states: tuple[Tensor, ...] | None = None
    """The embeddings and the output of every block, each (B, S, D), if output_hidden_states was given."""


@dataclass
class Beit3ContrastiveOutput(ModelOutput):
    """Similarities of images and texts, with CLIPModel's names."""

    logits_per_image: Tensor | None = None
    """(I, T)"""
    logits_per_text: Tensor | None = None
    """(T, I)"""
    text_embeds: Tensor | None = None
    """(T, D), normalised."""
    image_embeds: Tensor | None = None
    """(I, D), normalised."""


class Multiway(nn.Module):
    """One module of the same kind per expert. Every token goes through the one of its modality."""

    def __init__(self, make: Callable[[], nn.Module], experts: tuple[str, ...]):
        super().__init__()
        for name in experts:
            self.add_module(name, make())

    def forward(self, x: Tensor, num_image_tokens: int) -> Tensor:
        """(B, S, ...) -> (B, S, ...), the image tokens first."""
        experts, num_words = dict(self.named_children()), x.shape[1] - num_image_tokens
        if "shared" in experts:
            return experts["shared"](x)
        if num_words == 0:
            return experts["vision"](x)
        if num_image_tokens == 0:
            return experts["language"](x)
        if "vision_language" in experts:
            return experts["vision_language"](x)
        image, text = x.split([num_image_tokens, num_words], dim=1)
        return torch.cat([experts["vision"](image), experts["language"](text)], dim=1)


class Beit3FeedForward(nn.Module):
    """One expert. The norm inside, and that of attention, is Magneto's sub-LayerNorm (arXiv 2210.06423)."""

    def __init__(self, config: Beit3Config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.norm = nn.LayerNorm(config.intermediate_size, config.layer_norm_eps)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(F.gelu(self.fc1(x))))


class Beit3Attention(nn.Module):
    """Softmax attention over the whole sequence, with a norm before the output projection."""

    def __init__(self, config: Beit3Config, experts: tuple[str, ...]):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.num_heads = config.num_attention_heads
        self.qkv = Multiway(lambda: nn.Linear(dim, 3 * dim), experts)
        self.norm = Multiway(lambda: nn.LayerNorm(dim, eps), experts)
        self.proj = Multiway(lambda: nn.Linear(dim, dim), experts)

    def forward(self, x: Tensor, num_image_tokens: int, mask: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, D). mask: bool, broadcast to (B, 1, S, S), True if a query (row) may see a key."""
        qkv = self.qkv(x, num_image_tokens).unflatten(2, (3, self.num_heads, -1))  # (B, S, 3, H, D / H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, S, D / H)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        return self.proj(self.norm(x, num_image_tokens), num_image_tokens)


class Beit3Block(nn.Module):
    """Attention and experts, each with a norm before it and stochastic depth after it."""

    def __init__(self, config: Beit3Config, layer: int):
        super().__init__()
        attention_experts = ("vision", "language") if config.decoupled_attention else ("shared",)
        # only the top blocks have vision-language experts: below, both parts of a pair use those of their modality
        has_vl_expert = layer >= config.num_hidden_layers - config.num_vl_layers
        experts = ("vision", "language", *(("vision_language",) if has_vl_expert else ()))
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.drop_path_rate = config.drop_path_rate * layer / max(1, config.num_hidden_layers - 1)
        self.norm1 = Multiway(lambda: nn.LayerNorm(dim, eps), attention_experts)
        self.attn = Beit3Attention(config, attention_experts)
        self.norm2 = Multiway(lambda: nn.LayerNorm(dim, eps), experts)
        self.experts = Multiway(lambda: Beit3FeedForward(config), experts)

    def forward(self, x: Tensor, num_image_tokens: int, mask: Tensor | None) -> Tensor:
        """(B, S, D) -> (B, S, D)"""
        x = x + self.drop_path(self.attn(self.norm1(x, num_image_tokens), num_image_tokens, mask))
        return x + self.drop_path(self.experts(self.norm2(x, num_image_tokens), num_image_tokens))

    def drop_path(self, branch: Tensor) -> Tensor:
        """Return the branch, in training zero for a random part of the samples (arXiv 1603.09382)."""
        kept = 1 - self.drop_path_rate if self.training else 1
        return branch if kept == 1 else branch * (branch.new_empty(branch.shape[0], 1, 1).bernoulli_(kept) / kept)


class Beit3VisionEmbedding(nn.Module):
    """Projected patches after a class token, plus learned positions."""

    def __init__(self, config: Beit3Config):
        super().__init__()
        dim, self.patch_size = config.hidden_size, config.patch_size
        self.patch_embed = nn.Conv2d(config.num_channels, dim, kernel_size=self.patch_size, stride=self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        num_patches = (config.image_size // config.patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + 1 + num_patches, dim))

    def forward(self, pixel_values: Tensor, image_mask: Tensor | None) -> Tensor:
        """Return (B, V, D). image_mask: (B, V - 1) bool, True for patches that are replaced by the mask token."""
        height, width = pixel_values.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images are {height} x {width}; resize them to multiples of patch_size {self.patch_size}")
        patches = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        if image_mask is not None:
            patches = torch.where(image_mask[..., None].bool(), self.mask_token, patches)
        x = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return x + self.positions(height // self.patch_size, width // self.patch_size)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the positions of the class token and of a grid of patches, (V, D), interpolated if it is another grid
        than the table's."""
        cls_token, patches = self.pos_embed[POSITION_OFFSET:].split([1, len(self.pos_embed) - POSITION_OFFSET - 1])
        side = math.isqrt(len(patches))
        if (rows, columns) != (side, side):
            table = patches.float().unflatten(0, (1, side, side)).permute(0, 3, 1, 2)
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
            patches = table[0].flatten(1).T.to(patches.dtype)
        return torch.cat([cls_token, patches])


class Beit3TextEmbedding(nn.Module):
    """Words plus learned positions, which start at 0 in a text alone and after an image."""

    def __init__(self, config: Beit3Config):
        super().__init__()
        self.max_length = config.max_position_embeddings
        self.word_embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pos_embed = nn.Parameter(torch.zeros(POSITION_OFFSET + self.max_length, config.hidden_size))

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, D)"""
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"a text of {length} tokens exceeds {self.max_length}; shorten it")
        return self.word_embed(input_ids) + self.pos_embed[POSITION_OFFSET : POSITION_OFFSET + length]


class Beit3Encoder(nn.Module):
    """Embeddings, blocks and the final norm."""

    def __init__(self, config: Beit3Config):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.vision_embed = Beit3VisionEmbedding(config)
        self.text_embed = Beit3TextEmbedding(config)
        self.blocks = nn.ModuleList(Beit3Block(config, layer) for layer in range(config.num_hidden_layers))
        final_experts = ("vision", "language") if config.decoupled_attention else ("shared",)
        self.norm = Multiway(lambda: nn.LayerNorm(dim, eps), final_experts)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        is_causal: bool = False,
    ) -> Beit3Output:
        """Return hidden states; arguments as for `Beit3Model`.

        is_causal: use the captioner's attention: an image sees only itself, a word its image, itself and the words
        before it.
        """
        parts = [] if pixel_values is None else [self.vision_embed(pixel_values, image_mask)]
        parts += [] if input_ids is None else [self.text_embed(input_ids)]
        if not parts:
            raise ValueError(
                "neither pixel_values nor input_ids are given; give one for images or texts, both for pairs"
            )
        first, last = parts[0].shape[0], parts[-1].shape[0]
        if first != last:
            raise ValueError(f"{first} images and {last} texts are not pairs; give as many of both")
        x, num_image_tokens = torch.cat(parts, dim=1), 0 if pixel_values is None else parts[0].shape[1]
        mask = attention_masks(x, num_image_tokens, attention_mask, is_causal)
        hidden_states = [x]
        for block in self.blocks:
            x = block(x, num_image_tokens, mask)
            hidden_states += [x] if output_hidden_states else []
        x = self.norm(x, num_image_tokens)
        image, text = x.split([num_image_tokens, x.shape[1] - num_image_tokens], dim=1)
        given = (None if pixel_values is None else image, None if input_ids is None else text)
        return Beit3Output(x, *given, tuple(hidden_states) if output_hidden_states else None)


def attention_masks(x: Tensor, num_image_tokens: int, words: Tensor | None, is_causal: bool) -> Tensor | None:
    """Return which keys a query may see, as Beit3Attention takes it; None for all. words: (B, L), 0 = padding."""
    mask = None
    if words is not None and x.shape[1] > num_image_tokens:
        mask = F.pad(words.bool(), (num_image_tokens, 0), value=True)[:, None, None]
    if is_causal:
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        causal[:num_image_tokens, :num_image_tokens] = True
        mask = causal if mask is None else mask & causal
    return mask


class Beit3Model(PreTrainedModel):
    """The encoder and the heads that the weights were trained with.

    `mim_head` and `mlm_head` map the states of masked patches and of masked words to logits of visual tokens and of
    words. `vision_head` and `language_head` map class tokens and first words into the space of `get_image_features` and
    `get_text_features`.
    """

    config_class = Beit3Config
    base_model_prefix = "beit3"
    main_input_name = "pixel_values"
    _no_split_modules = ("Beit3Block", "Beit3VisionEmbedding", "Beit3TextEmbedding")

    def __init__(self, config: Beit3Config):
        super().__init__(config)
        dim = config.hidden_size
        self.encoder = Beit3Encoder(config)
        if config.masked_data_heads:
            self.mim_head = nn.Linear(dim, config.num_visual_tokens)
            self.mlm_head = nn.Linear(dim, config.vocab_size)
        if config.contrastive_heads:
            self.vision_head = nn.Linear(dim, dim, bias=False)
            self.language_head = nn.Linear(dim, dim, bias=False)
            # a natural logarithm, as in CLIP, and as in SigLIP if there is a bias
            self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if config.logit_bias else 1 / 0.07)))
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize a network that is trained from scratch: as BEiT, footnote 4 of the paper."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-std, b=std)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                nn.init.zeros_(bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Beit3VisionEmbedding | Beit3TextEmbedding):
            for parameter in module.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=std, a=-std, b=std)

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.text_embed.word_embed

    def set_input_embeddings(self, value: Any) -> None:
        self.encoder.text_embed.word_embed = value

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Return the hidden states of images, of texts, or of pairs if both are given.

        pixel_values: (B, 3, height, width), normalised; positions are interpolated for other sizes than the config's.
        input_ids: (B, L), <s> first. attention_mask: (B, L), 1 for words and 0 for padding, None if there is none; an
        image has no padding. image_mask: (B, V - 1) bool, True for patches to hide behind the mask token.
        """
        with_all = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = self.encoder(pixel_values, input_ids, attention_mask, image_mask, with_all)
        return output if return_dict is not False else output.to_tuple()

    def get_image_features(self, pixel_values: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """Return normalised features of images, (I, D): the projected class token of each, float32."""
        states = self.encoder(pixel_values, image_mask=image_mask).last_hidden_state
        return F.normalize(self._head("vision_head")(states[:, 0]).float(), dim=-1)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return normalised features of texts, (T, D): the projected first word of each, float32."""
        states = self.encoder(None, input_ids, attention_mask).last_hidden_state
        return F.normalize(self._head("language_head")(states[:, 0]).float(), dim=-1)

    def similarity(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Return the logits of the contrastive loss, (I, T): scaled cosines, plus the bias if there is one."""
        logits = self._head("logit_scale").float().exp() * image_features @ text_features.T
        return logits + self.logit_bias.float() if self.config.logit_bias else logits

    @torch.no_grad()
    def caption(self, pixel_values: Tensor, max_length: int = 32) -> Tensor:
        """Return a caption for each image, (B, at most max_length) ids: <s>, words, </s>, padding.

        Takes the likeliest word at every step. The network was trained to predict masked words, not next words, so a
        step reads its word from a mask token after the words so far. Everything is computed again at every step.
        """
        config, num_images = self.config, len(pixel_values)
        ids = torch.full((num_images, 1), config.bos_token_id, device=pixel_values.device)
        masks, is_done = torch.full_like(ids, config.known_mask_id()), torch.zeros_like(ids, dtype=torch.bool)[:, 0]
        while ids.shape[1] < min(max_length, config.max_position_embeddings) and not is_done.all():
            states = self.encoder(pixel_values, torch.cat([ids, masks], dim=1), is_causal=True).last_hidden_state
            words = self._head("mlm_head")(states[:, -1]).argmax(dim=-1).masked_fill(is_done, config.pad_token_id)
            ids = torch.cat([ids, words[:, None]], dim=1)
            is_done |= words == config.eos_token_id
        return ids

    def _head(self, name: str) -> Any:
        """Return a head. Raises ValueError if the weights were trained without it."""
        if not hasattr(self, name):
            raise ValueError(f"these weights were trained without {name}; convert a run of the stage that trains it")
        return getattr(self, name)


class Beit3ForMaskedLM(Beit3Model):
    """Masked words of texts, or of captions beside their images."""

    def get_output_embeddings(self) -> nn.Module:
        return self._head("mlm_head")

    def set_output_embeddings(self, value: Any) -> None:
        self.mlm_head = value

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **inputs: Any) -> Any:
        """Return the logits of all words, (B, L, vocab_size), and with labels (B, L) the mean cross-entropy in nats of
        those that are not -100; other inputs as for `Beit3Model`."""
        inputs, return_dict = {**inputs, "return_dict": True}, inputs.get("return_dict")
        states = super().forward(input_ids=input_ids, **inputs)
        logits = self._head("mlm_head")(states.text_hidden_state)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        output = MaskedLMOutput(loss=loss, logits=logits, hidden_states=states.hidden_states)
        return output if return_dict is not False else output.to_tuple()


class Beit3ForZeroShotImageClassification(Beit3Model):
    """Every image against every text: two encoders with the same weights, as CLIPModel computes them."""

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Return the similarities of (I, 3, height, width) images and (T, L) texts."""
        images, texts = self.get_image_features(pixel_values), self.get_text_features(input_ids, attention_mask)
        logits = self.similarity(images, texts)
        output = Beit3ContrastiveOutput(logits, logits.T, texts, images)
        return output if return_dict is not False else output.to_tuple()
