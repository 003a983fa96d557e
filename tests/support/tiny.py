"""Tiny networks and random inputs for them, in float32."""

from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from model.config import (
    KEEP_EVERYTHING,
    NO_FURTHER_HEADS,
    CaptionHead,
    Checkpointing,
    ClassHead,
    DualHeads,
    KernelChoice,
    MultiwayConfig,
    Nlvr2Head,
    TaskHead,
    VqaHead,
)
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel, MaskedTargets
from model.multiway import MultiwayInputs
from model.networks import TaskNetworks
from model.objective import IGNORE_INDEX
from model.task_networks import CaptionTargets, build_task_network

NetworkT = TypeVar("NetworkT", bound=nn.Module)
CONFIG = MultiwayConfig(
    dim=32,
    depth=3,
    num_heads=4,
    ffn_dim=48,
    num_vl_layers=1,
    image_size=32,
    patch_size=8,
    vocab_size=50,
    num_visual_tokens=20,
    max_text_length=12,
)
TINY_HEADS: tuple[TaskHead, ...] = (VqaHead(7), Nlvr2Head(), CaptionHead(), ClassHead(5))


def tiny_model(
    seed: int = 0,
    kernels: KernelChoice = "auto",
    checkpointing: Checkpointing = KEEP_EVERYTHING,
    **changes: Any,
) -> MaskedDataModel:
    """Return a model in which every parameter, biases and norms included, is random and large enough to matter."""
    config = replace(CONFIG, **changes)
    return _randomized(MaskedDataModel(config, kernels, checkpointing), config, seed)


def tiny_dual_encoder(heads: DualHeads = NO_FURTHER_HEADS, seed: int = 0, **changes: Any) -> DualEncoder:
    """Return a dual encoder of such parameters, with a scale and a bias that suit random features."""
    config = replace(CONFIG, **changes)
    model = _randomized(DualEncoder(config, heads), config, seed)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        if model.logit_bias is not None:
            model.logit_bias.fill_(-0.5)
    return model


def tiny_task_network(heads: TaskHead, seed: int = 0, **changes: Any) -> TaskNetworks:
    """Return the network of a task with such parameters."""
    config = replace(CONFIG, **changes)
    network: TaskNetworks = _randomized(build_task_network(config, heads), config, seed)
    return network


def tiny_task_inputs(heads: TaskHead, seed: int = 0) -> MultiwayInputs:
    """Return random inputs of four samples of a task, or of two that have two images."""
    inputs = tiny_inputs(4, 0, 0, seed) if isinstance(heads, ClassHead) else tiny_inputs(0, 4, 0, seed)
    if isinstance(heads, Nlvr2Head):  # the same sentences again, each with its second image
        ids, padding = inputs.caption_ids[:2].repeat(2, 1), inputs.caption_padding[:2].repeat(2, 1)
        inputs = replace(inputs, caption_ids=ids, caption_padding=padding)
    whole = torch.zeros_like(inputs.image_mask)
    return replace(inputs, image_mask=whole, causal_captions=isinstance(heads, CaptionHead))


def tiny_caption_targets(inputs: MultiwayInputs) -> CaptionTargets:
    """Return targets of two words of every caption but the first, which has one."""
    num_captions = len(inputs.caption_ids)
    positions = torch.tensor([[2, 0], *[[1, 2]] * (num_captions - 1)])
    labels = inputs.caption_ids.gather(1, positions)
    labels[0, 1] = IGNORE_INDEX
    return CaptionTargets(positions, labels)


def _randomized(model: NetworkT, config: MultiwayConfig, seed: int) -> NetworkT:
    init_weights(model, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tiny_dual_inputs(num_images: int, num_texts: int, seed: int = 0) -> MultiwayInputs:
    """Return random whole images and texts of different lengths, as a dual encoder takes them."""
    inputs = tiny_inputs(num_images, 0, num_texts, seed)
    return replace(inputs, image_mask=torch.zeros_like(inputs.image_mask))


def tiny_inputs(num_images: int, num_pairs: int, num_texts: int, seed: int = 0) -> MultiwayInputs:
    """Return random pixels and ids, with texts of different lengths and some patches hidden."""
    generator = torch.Generator().manual_seed(seed)
    size, patches = CONFIG.image_size, CONFIG.num_patches

    def texts(count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.randint(4, CONFIG.vocab_size, (count, length), generator=generator)
        lengths = torch.randint(3, length + 1, (count, 1), generator=generator)
        return ids, torch.arange(length) >= lengths

    caption_ids, caption_padding = texts(num_pairs, 7)
    text_ids, text_padding = texts(num_texts, 10)
    return MultiwayInputs(
        images=torch.randn(num_images + num_pairs, 3, size, size, generator=generator),
        image_mask=torch.rand(num_images + num_pairs, patches, generator=generator) < 0.4,
        caption_ids=caption_ids,
        caption_padding=caption_padding,
        text_ids=text_ids,
        text_padding=text_padding,
    )


def tiny_targets(inputs: MultiwayInputs, seed: int = 0) -> MaskedTargets:
    """Return targets: five patches per image, three positions per caption, two per text; in every other one the last
    is unused."""
    generator = torch.Generator().manual_seed(seed)

    def positions(count: int, total: int, asked: int) -> torch.Tensor:
        order = torch.rand(count, total, generator=generator).argsort(dim=1)
        return order[:, :asked]

    def labels(count: int, asked: int) -> torch.Tensor:
        ids = torch.randint(4, CONFIG.vocab_size, (count, asked), generator=generator)
        ids[::2, -1] = IGNORE_INDEX
        return ids

    num_pairs, num_texts = len(inputs.caption_ids), len(inputs.text_ids)
    codes = torch.randint(CONFIG.num_visual_tokens, (len(inputs.images), 5), generator=generator)
    return MaskedTargets(
        image_positions=positions(len(inputs.images), CONFIG.num_patches, 5),
        visual_token_ids=codes,
        caption_positions=positions(num_pairs, 3, 3),
        caption_labels=labels(num_pairs, 3),
        text_positions=positions(num_texts, 3, 2),
        text_labels=labels(num_texts, 2),
    )
