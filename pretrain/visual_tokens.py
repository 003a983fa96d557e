"""The visual tokenizer's file, and the two views of an image."""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from model.visual_tokenizer import VisualTokenizer, VisualTokenizerConfig


def save_visual_tokenizer(tokenizer: VisualTokenizer, path: Path) -> None:
    """Write config and weights, only tensors and numbers."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"config": asdict(tokenizer.config), "model": tokenizer.state_dict()}, partial)
    partial.rename(path)


def load_visual_tokenizer(path: Path) -> VisualTokenizer:
    """A frozen tokenizer. Raises ValueError where there is no such file or its codebook was never trained."""
    if not path.is_file():
        raise ValueError(
            f"visual tokenizer {path} does not exist; train one with python -m pretrain.train_visual_tokenizer"
        )
    content = torch.load(path, weights_only=True, map_location="cpu")
    tokenizer = VisualTokenizer(VisualTokenizerConfig(**content["config"]))
    tokenizer.load_state_dict(content["model"])
    if not tokenizer.codebook.is_initialized:
        raise ValueError(f"visual tokenizer {path} has a codebook that was never trained; train it first")
    return tokenizer.eval().requires_grad_(False)


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
