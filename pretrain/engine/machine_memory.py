"""Refusal of networks, batches and buckets that exceed this machine's memory, before anything is allocated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from data_pipeline.loading.config import SamplesPerStep

FLOAT32_BYTES = 4
ID_BYTES = 8


def check_network_fits(build: Callable[[], nn.Module]) -> None:
    """Raise ValueError if a network's weights exceed the memory: every rank starts with all of them in float32."""
    total, num_parameters = psutil.virtual_memory().total, count_parameters(build)
    if FLOAT32_BYTES * num_parameters > total:
        raise ValueError(
            f"the network has {num_parameters:,} parameters, {_gb(FLOAT32_BYTES * num_parameters)} in float32, more "
            f"than the {_gb(total)} of this machine; lower its sizes"
        )


def count_parameters(build: Callable[[], nn.Module]) -> int:
    """Return the number of parameters of a network, without allocating any."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def check_batch_fits(
    per_step: SamplesPerStep, image_size: int, text_ids: int, world_size: int, images_per_task_sample: int = 1
) -> None:
    """Raise ValueError if a rank's part of a batch exceeds the memory.

    text_ids: the number of ids in the captions and texts of a step, over all ranks.
    """
    total = psutil.virtual_memory().total
    num_images = per_step.images + per_step.pairs + images_per_task_sample * per_step.task_samples
    num_bytes = (3 * image_size**2 * num_images + ID_BYTES * text_ids) // world_size
    if num_bytes > total:
        counts = ", ".join(f"{kind}_per_step" for kind, count in vars(per_step).items() if count)
        raise ValueError(
            f"a rank's part of a step of {per_step} takes {_gb(num_bytes)}, more than the {_gb(total)} of this "
            f"machine; use more ranks, or lower {counts} or the sizes of images and texts"
        )


def check_buckets_fit(path: Path, zero: dict[str, Any], device: torch.device) -> None:
    """Raise ValueError if a bucket of DeepSpeed's file, in elements, exceeds the memory of the device."""
    is_gpu = device.type == "cuda"
    total = torch.cuda.get_device_properties(device).total_memory if is_gpu else psutil.virtual_memory().total
    for name in ("reduce_bucket_size", "allgather_bucket_size"):
        num_bytes = FLOAT32_BYTES * int(zero.get(name, 0))
        if num_bytes > total:
            raise ValueError(
                f"{path} sets zero_optimization.{name} to {int(zero[name]):,}, {_gb(num_bytes)} in float32, more than "
                f"the {_gb(total)} of {'a GPU' if is_gpu else 'this machine'}; lower it"
            )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.0f} GB"
