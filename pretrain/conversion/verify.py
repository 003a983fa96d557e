"""Is a converted file the same network? Every tensor, bit for bit, and outputs on random inputs.

One network is held at a time. Reading uses the same table of names as writing: that the table is right is for the tests
to show, which compare with torchscale and timm.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import MultiwayConfig
from model.multiway import MultiwayInputs
from model.pretrained import load_pretrained
from pretrain.checkpoints.weights import model_of
from pretrain.formats.beit3 import decoupled, decoupled_weights, file_entries
from pretrain.formats.beit3_file import load_beit3
from pretrain.formats.role import Role
from pretrain.formats.timm import timm_entries, timm_features

TOLERANCE = 2e-5
"""Largest difference of a hidden state in float32. States have a final LayerNorm: their scale is 1."""
NUM_SAMPLES = 2
MAX_TEXT_TOKENS = 32


@torch.no_grad()
def largest_difference(
    to: str,
    role: Role | None,
    path: Path,
    config: MultiwayConfig,
    weights: Callable[[], Iterator[tuple[str, Tensor]]],
) -> float:
    """Between hidden states of the source, `config` and `weights`, and of what was written to `path`, in float32.

    role: the use to compare, None = all. Raises ValueError where the file cannot be loaded or a tensor differs.
    """
    compare_tensors(to, role, path, config, weights())
    cases = [random_inputs(config, use, is_masked=to != "timm") for use in _uses(role)]
    model = model_of(config, weights())
    expected = [_real_states(inputs, model.encode(inputs)) for inputs in cases]
    del model
    if to == "timm":
        found = [[timm_features(path.parent, inputs.images)] for inputs in cases]
    else:
        if to == "beit3":
            model = model_of(decoupled(config), decoupled_weights(load_beit3(path), decoupled(config)))
        else:
            model = load_pretrained(path.parent)
        found = [_real_states(inputs, model.encode(inputs)) for inputs in cases]
    pairs = [(a, b) for ours, theirs in zip(expected, found, strict=True) for a, b in zip(ours, theirs, strict=True)]
    return float(torch.stack([(a - b).abs().max() for a, b in pairs]).max())  # NaN where there is one


def compare_tensors(
    to: str, role: Role | None, path: Path, config: MultiwayConfig, weights: Iterator[tuple[str, Tensor]]
) -> None:
    """Raises ValueError, naming it, for the first tensor of the file that is not that of the source."""
    if to == "beit3":
        assert role is not None
        written, expected = load_beit3(path), file_entries(weights, config, role)
    else:
        written, expected = load_file(path), timm_entries(weights) if to == "timm" else weights
    for name, tensor in expected:
        if name not in written or not torch.equal(written.pop(name), tensor):
            raise ValueError(f"{path.name} does not hold the {name} of its source")
    if written:
        raise ValueError(f"{path.name} holds more than its source: {', '.join(sorted(written))}")


def random_inputs(config: MultiwayConfig, use: str, is_masked: bool) -> MultiwayInputs:
    """Images, texts or pairs with padding and, where is_masked, hidden patches."""
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


def _uses(role: Role | None) -> list[str]:
    return {
        "fusion": ["pair"],
        "dual": ["image", "text"],
        "vision": ["image"],
        "text": ["text"],
        None: ["image", "text", "pair"],
    }[role]


def _real_states(inputs: MultiwayInputs, states: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Hidden states without those of padding; what the inputs have none of is left out."""
    images, captions, texts = states
    found = [images, captions[~inputs.caption_padding], texts[~inputs.text_padding]]
    return [part for part in found if part.numel()]
