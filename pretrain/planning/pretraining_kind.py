"""Pretraining as a plan sees it: masked data modeling, with the visual tokenizer beside it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from model.config import KernelChoice, Use, VisualTokenizerConfig
from model.flops import forward_flops, training_flops
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayInputs
from model.objective import num_masked
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs.micro_step import MicroStep
from pretrain.jobs.visual_tokens import load_visual_tokenizer, tokenizer_dtype, tokenizer_view_size
from pretrain.planning.live_memory import LiveMemory, tensors_in
from pretrain.planning.planned_kind import MicroBatch, PlannedKind

TOKENS_PER_WORD = 2
"""Assumed number of tokens of a hidden caption word."""


class PlannedPretraining(PlannedKind[PretrainConfig]):
    """Masked data modeling on images, pairs and texts in one packed step."""

    module = "pretrain.train"

    def network(self, config: PretrainConfig, kernels: KernelChoice) -> nn.Module:
        with torch.device("meta"):
            return MaskedDataModel(config.model, kernels, config.activation_checkpointing).to(config.dtype)

    def micro_step(self, config: PretrainConfig, batch: MicroBatch) -> MicroStep:
        return meta_micro_step(config, batch)

    def loss(self, network: nn.Module, micro_step: MicroStep) -> Tensor:
        losses: Tensor = network(micro_step.inputs, micro_step.targets, micro_step.drop_path_scale)
        return losses.sum()

    def batch_bytes(self, config: PretrainConfig, batch: MicroBatch) -> int:
        micro, pixels = meta_micro_step(config, batch), self.pixel_bytes(config, batch)
        made = sum(tensor.nbytes for part in (micro.inputs, micro.targets) for tensor in tensors_in(vars(part)))
        scale = 0 if micro.drop_path_scale is None else micro.drop_path_scale.nbytes
        return config.gradient_accumulation_steps * (pixels + made + scale)

    def pixel_bytes(self, config: PretrainConfig, batch: MicroBatch) -> int:
        """Return the bytes of a micro-step's images as read, with those of the next batch."""
        side = max(config.model.image_size, tokenizer_view_size(visual_tokenizer_config(config), config.model))
        return 2 * (batch.images + batch.pairs) * 3 * side**2

    def of_the_forward(self, config: PretrainConfig) -> PretrainConfig:
        return replace(config, gradient_accumulation_steps=1, images_per_step=1, pairs_per_step=1, texts_per_step=1)

    def step_flops(self, config: PretrainConfig) -> int:
        return training_flops(config.model, config.largest_step)

    def uses(self, config: PretrainConfig) -> dict[Use, int]:
        return {"image": 0, "text": config.data.text_length, "pair": config.data.caption_length}

    def evaluation_forwards(self, config: PretrainConfig) -> Iterator[tuple[int, float]]:
        return forwards(config)

    def frozen_memory(self, config: PretrainConfig, batch: MicroBatch, device: torch.device) -> tuple[int, int]:
        visual = visual_tokenizer_config(config)
        side = tokenizer_view_size(visual, config.model)
        view = (batch.images + batch.pairs, 3, side, side)
        return tokenizer_memory(visual, view, tokenizer_dtype(config, device))


def meta_micro_step(config: PretrainConfig, batch: MicroBatch) -> MicroStep:
    """Return the micro-step of pretrain/jobs/micro_step.py as tensors without content, with the longest captions and
    texts. Shorter ones have fewer rows, but need a padded copy of the words' last states."""
    network, objective, data = config.model, config.objective, config.data
    caption_lengths, text_lengths = (data.caption_length,) * batch.pairs, (data.text_length,) * batch.texts
    (caption_places,) = num_masked([data.caption_length], objective.caption_mask_ratio)
    (text_places,) = num_masked([data.text_length], objective.text_mask_ratio)
    num_images = batch.images + batch.pairs

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int64, device="meta")

    def booleans(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bool, device="meta")

    size = network.image_size
    inputs = MultiwayInputs(
        images=torch.empty(num_images, 3, size, size, dtype=config.dtype, device="meta"),
        image_mask=booleans(num_images, network.num_patches),
        caption_ids=integers(batch.pairs, data.caption_length),
        caption_padding=booleans(batch.pairs, data.caption_length),
        text_ids=integers(batch.texts, data.text_length),
        text_padding=booleans(batch.texts, data.text_length),
        caption_lengths=caption_lengths,
        text_lengths=text_lengths,
    )
    targets = MaskedTargets(
        image_positions=integers(num_images, config.num_masked_patches),
        visual_token_ids=integers(num_images, config.num_masked_patches),
        caption_positions=integers(batch.pairs, caption_places),
        caption_labels=integers(batch.pairs, caption_places),
        text_positions=integers(batch.texts, text_places),
        text_labels=integers(batch.texts, text_places),
        caption_counts=num_masked(caption_lengths, objective.caption_mask_ratio),
        text_counts=num_masked(text_lengths, objective.text_mask_ratio),
    )
    scale = None
    if network.drop_path_rate:
        scale = torch.empty(network.depth, 2, num_images + batch.texts, device="meta")
    return MicroStep(inputs, targets, scale)


def visual_tokenizer_config(config: PretrainConfig) -> VisualTokenizerConfig:
    """Return the config in the recipe's file, or that of BEiT v2's base tokenizer if there is no file yet."""
    if config.visual_tokenizer.is_file():
        return load_visual_tokenizer(config.visual_tokenizer).config
    return VisualTokenizerConfig(num_codes=config.model.num_visual_tokens)


@cache
def tokenizer_memory(visual: VisualTokenizerConfig, view: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """Return the bytes of the frozen visual tokenizer's weights, and its peak besides them, the pixels included.

    view: shape (B, 3, S, S) of the pixels; dtype: type of its matrix products.
    """
    with FakeTensorMode():  # the meta device knows no autocast
        tokenizer = VisualTokenizer(visual).requires_grad_(False)
        weights = sum(tensor.nbytes for tensor in [*tokenizer.parameters(), *tokenizer.buffers()])
        memory = LiveMemory()
        with memory:
            tokenizer.tokenize(torch.empty(view), dtype)
    return weights, memory.peak


def forwards(config: PretrainConfig) -> Iterator[tuple[int, float]]:
    """Yield the number of samples, and the operations of a forward per sample, of each part of an evaluation."""
    settings, data, objective = config.evaluation, config.data, config.objective
    is_given = {"image": settings.images, "pair": settings.pairs, "text": settings.texts}
    if "losses" in settings.parts and any(is_given.values()):
        patches = config.num_masked_patches
        (caption_words,) = num_masked([data.caption_length], objective.caption_mask_ratio)
        (text_words,) = num_masked([data.text_length], objective.text_mask_ratio)
        image = forward_flops(config.model, "image", 0) + head_flops(config, patches, 0)
        pair = forward_flops(config.model, "pair", data.caption_length) + head_flops(config, patches, caption_words)
        text = forward_flops(config.model, "text", data.text_length) + head_flops(config, 0, text_words)
        costs = {"image": image, "pair": pair, "text": text}
        yield settings.num_samples, sum(cost for kind, cost in costs.items() if is_given[kind])
    if "words" in settings.parts and settings.pairs:
        guess = forward_flops(config.model, "pair", data.caption_length) + head_flops(config, 0, TOKENS_PER_WORD)
        yield settings.num_words, 2 * guess  # with the right image and with a wrong one
    if {"knn", "probe"} & set(settings.parts) and settings.labelled:
        yield settings.num_labelled, forward_flops(config.model, "image", 0)


def head_flops(config: PretrainConfig, patches: int, words: int) -> int:
    """Return the operations of the heads on hidden patches and words."""
    model = config.model
    return 2 * model.dim * (patches * model.num_visual_tokens + words * model.vocab_size)
