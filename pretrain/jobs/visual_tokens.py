"""The visual tokenizer of a run, and the two views of an image."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from model.config import MultiwayConfig, VisualTokenizerConfig
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.formats.vqkd import load_vqkd

LEAST_AGREEMENT = 0.9
"""Least share of patches, on noise, whose code in a lower precision is that in float32."""


def load_visual_tokenizer(path: Path) -> VisualTokenizer:
    """Return a frozen tokenizer. Raises ValueError if there is no such file or its codebook was never trained."""
    if path.is_dir():
        raise ValueError(f"visual tokenizer {path} is a folder; give the file that its run wrote (--out)")
    if not path.is_file():
        raise ValueError(
            f"visual tokenizer {path} does not exist; train one with python -m pretrain.train_visual_tokenizer, or "
            "give one of BEiT v2's files"
        )
    tokenizer = load_vqkd(path)
    if not tokenizer.codebook.is_initialized:
        raise ValueError(f"visual tokenizer {path} has a codebook that was never trained; train it first")
    return tokenizer.eval().requires_grad_(False)


def tokenizer_view_size(visual: VisualTokenizerConfig, network: MultiwayConfig) -> int:
    """Return the side in pixels of the view with one code per patch of the network.

    For a network of 14-pixel patches and a tokenizer of 16-pixel ones it is 16 / 14 of the network's.
    """
    return network.grid_size * visual.patch_size


def tokenizer_dtype(config: PretrainConfig, device: torch.device) -> torch.dtype:
    """Return the type of the tokenizer's matrix products: float32 on a CPU, where others are slower."""
    if device.type == "cpu" or config.precision == "float32":
        return torch.float32
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return dtypes[config.visual_tokenizer_precision]


def check_precision(tokenizer: VisualTokenizer, view_size: int, dtype: torch.dtype) -> None:
    """Raise ValueError if the tokenizer's codes in dtype are not those in float32, as after an overflow."""
    device = tokenizer.codebook.codes.device
    noise = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = interpolate(noise, size=(view_size, view_size), mode="bicubic").clamp(0, 1).to(device)
    agreement = (tokenizer.tokenize(pixels, dtype) == tokenizer.tokenize(pixels)).float().mean().item()
    if agreement < LEAST_AGREEMENT:
        raise ValueError(
            f"the visual tokenizer gives the same codes in {str(dtype).removeprefix('torch.')} as in float32 for only "
            f"{agreement:.0%} of the patches; set visual_tokenizer_precision float32"
        )


def network_view(images: Tensor, size: int) -> Tensor:
    """Return (B, 3, S, S) uint8 images as (B, 3, size, size) float32 in [-1, 1], as in Microsoft's finetuning code."""
    return _resized(images, size) * 2 - 1


def tokenizer_view(images: Tensor, size: int) -> Tensor:
    """Return (B, 3, S, S) uint8 images as (B, 3, size, size) float32 in [0, 1]."""
    return _resized(images, size)


def _resized(images: Tensor, size: int) -> Tensor:
    pixels = images.float() / 255
    if images.shape[-1] == size:
        return pixels
    return interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
