"""Is a converted file the same network? Every tensor, bit for bit, and outputs on random inputs.

One network is held at a time. Reading uses the same table of names as writing; the tests show that the table is right
by comparison with torchscale and timm.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.config import USES, ClassHead, DualHeads, Heads, MultiwayConfig, Use
from model.dual_encoder import DualEncoder
from model.multiway import MultiwayInputs, MultiwayStates, MultiwayTransformer
from model.networks import Network
from model.task_networks import CaptionNetwork, TaskNetwork
from pretrain.checkpoints.weights import encoder_of, model_of
from pretrain.conversion.source import Source
from pretrain.conversion.target import Target

TOLERANCE = 2e-5
"""Largest difference of an output in float32. Hidden states have a final LayerNorm: their scale is 1. Features have
length 1. Logits of a task have any scale: if the largest is above 1, their difference is divided by it."""
NUM_SAMPLES = 2
MAX_TEXT_TOKENS = 32


@torch.no_grad()
def largest_difference(target: Target, source: Source, path: Path) -> float:
    """Return the largest difference between outputs of the source and of the file at `path`, in float32.

    Raises ValueError if the file cannot be loaded or a tensor differs.
    """
    compare_tensors(target, source, path)
    cases = [random_inputs(source.config, use, target.has_masks) for use in target.uses if use in uses_of(source.heads)]
    network = _network(source, target.has_projections)
    expected = [outputs(network, inputs) for inputs in cases]
    del network  # memory need not hold two networks at once
    encode = target.encoder(source, path)
    found = [encode(inputs) for inputs in cases]
    pairs = [(a, b) for ours, theirs in zip(expected, found, strict=True) for a, b in zip(ours, theirs, strict=True)]
    is_logits = source.heads is not None and not isinstance(source.heads, DualHeads)
    differences = [(a - b).abs().max() / (a.abs().max().clamp(min=1) if is_logits else 1) for a, b in pairs]
    return float(torch.stack(differences).max())  # NaN if there is one


def uses_of(heads: Heads | None) -> tuple[Use, ...]:
    """Return the kinds of samples that the network with these heads is compared on."""
    if heads is None or isinstance(heads, DualHeads):
        return USES
    return ("image",) if isinstance(heads, ClassHead) else ("pair",)


def compare_tensors(target: Target, source: Source, path: Path) -> None:
    """Raise ValueError, naming it, for the first tensor of the file that is not that of the source."""
    written, expected = target.tensors(source, path)
    for name, tensor in expected:
        if name not in written or not torch.equal(written.pop(name), tensor):
            raise ValueError(f"{path.name} does not hold the {name} of its source")
    if written:
        raise ValueError(f"{path.name} holds more than its source: {', '.join(sorted(written))}")


def random_inputs(config: MultiwayConfig, use: Use, is_masked: bool) -> MultiwayInputs:
    """Return images, texts or pairs, with padding and, if is_masked, hidden patches."""
    generator = torch.Generator().manual_seed(0)
    length = min(MAX_TEXT_TOKENS, config.max_text_length)
    ids = torch.randint(config.vocab_size, (NUM_SAMPLES, length), generator=generator)
    padding = torch.arange(length) >= torch.tensor([[length], [(length + 1) // 2]])
    num_images = 0 if use == "text" else NUM_SAMPLES
    captions, texts = (slice(0, num) for num in (NUM_SAMPLES * (use == "pair"), NUM_SAMPLES * (use == "text")))
    mask = torch.rand(num_images, config.num_patches, generator=generator) < 0.4
    return MultiwayInputs(
        images=torch.randn(num_images, 3, config.image_size, config.image_size, generator=generator),
        image_mask=mask & is_masked,
        caption_ids=ids[captions],
        caption_padding=padding[captions],
        text_ids=ids[texts],
        text_padding=padding[texts],
    )


def _network(source: Source, has_projections: bool) -> MultiwayTransformer | Network:
    """Return what is compared: a dual encoder, the network of a task, or the encoder of one with any heads."""
    if source.heads is None or (isinstance(source.heads, DualHeads) and not has_projections):
        return encoder_of(source.config, source.weights())
    return model_of(source.config, source.weights(), source.heads)


def outputs(network: MultiwayTransformer | Network, inputs: MultiwayInputs) -> list[Tensor]:
    """Return the hidden states without those of padding, and of a dual encoder the features of images and texts; of
    the network of a task, whose states may have no norm, its logits alone."""
    if isinstance(network, TaskNetwork):
        return [network(replace(inputs, causal_captions=isinstance(network, CaptionNetwork)))]
    encoder = network if isinstance(network, MultiwayTransformer) else network.encoder
    found = states_without_padding(inputs, encoder(inputs))
    if isinstance(network, DualEncoder) and not len(inputs.caption_ids):
        found += [part for part in network.features(inputs) if part.numel()]
    return found


def states_without_padding(inputs: MultiwayInputs, states: MultiwayStates) -> list[Tensor]:
    """Return hidden states of images, captions and texts without those of padding; empty ones are left out."""
    images, captions, texts = states
    found = [images, captions[~inputs.caption_padding], texts[~inputs.text_padding]]
    return [part for part in found if part.numel()]
