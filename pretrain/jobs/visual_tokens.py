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
"""Of the codes in a lower precision with those in float32, on noise."""


def load_visual_tokenizer(path: Path) -> VisualTokenizer:
    """A frozen tokenizer. Raises ValueError where there is no such file or its codebook was never trained."""
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
    """Side in pixels of the view that gives a code for each patch of the network (14 px patches: 16 / 14 as large)."""
    return network.grid_size * visual.patch_size


def tokenizer_dtype(config: PretrainConfig, device: torch.device) -> torch.dtype:
    """Of the tokenizer's matrix products."""
    if device.type == "cpu" or config.precision == "float32":
        return torch.float32
    dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return dtypes[config.visual_tokenizer_precision]


def check_precision(tokenizer: VisualTokenizer, view_size: int, dtype: torch.dtype) -> None:
    """Raises ValueError where the tokenizer gives other codes in dtype than in float32, as after an overflow."""
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
    """(B, 3, S, S) uint8 -> (B, 3, size, size) float32 normalised to [-1, 1], as Microsoft's finetuning code does."""
    return _resized(images, size) * 2 - 1


def tokenizer_view(images: Tensor, size: int) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, 3, size, size) float32 in [0, 1]."""
    return _resized(images, size)


def _resized(images: Tensor, size: int) -> Tensor:
    pixels = images.float() / 255
    if images.shape[-1] == size:
        return pixels
    return interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
