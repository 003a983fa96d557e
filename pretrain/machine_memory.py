"""What no machine of this size can hold is refused before anything is allocated."""

from collections.abc import Callable

import psutil
import torch
from torch import nn

from data_pipeline.step_dataset import SamplesPerStep

FLOAT32_BYTES = 4
ID_BYTES = 8


def check_network_fits(build: Callable[[], nn.Module]) -> None:
    """Raise ValueError if the weights of a network, which every rank begins with in float32, exceed the memory."""
    total = psutil.virtual_memory().total
    try:
        with torch.device("meta"):
            num_parameters = sum(parameter.numel() for parameter in build().parameters())
    except RuntimeError as error:  # more elements than 64 bits count
        raise ValueError("the network has more than 2**63 parameters; lower its sizes") from error
    if FLOAT32_BYTES * num_parameters > total:
        raise ValueError(
            f"the network has {num_parameters:,} parameters, {_gb(FLOAT32_BYTES * num_parameters)} in float32, more "
            f"than the {_gb(total)} of this machine; lower its sizes"
        )


def check_batch_fits(per_step: SamplesPerStep, image_size: int, text_ids: int, world_size: int) -> None:
    """Raise ValueError if a rank's part of a batch exceeds the memory. text_ids: of all texts of a step, captions too."""
    total = psutil.virtual_memory().total
    num_bytes = (3 * image_size**2 * (per_step.images + per_step.pairs) + ID_BYTES * text_ids) // world_size
    if num_bytes > total:
        raise ValueError(
            f"a rank's part of a step of {per_step} takes {_gb(num_bytes)}, more than the {_gb(total)} of this "
            "machine; lower images_per_step, pairs_per_step, texts_per_step or the sizes of images and texts, or use more ranks"
        )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.0f} GB"
