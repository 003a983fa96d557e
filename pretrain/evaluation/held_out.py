"""Held-out samples for evaluation: the centre of each image, without augmentation."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.sample import BadSample, BadSampleError
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from model.kernels.block_masks import block_image_masks
from pretrain.config.pretraining import PretrainConfig
from pretrain.survival.console import warn


def read_held_out(folder: Path, data: DataConfig, image_size: int, max_samples: int) -> tuple[Tensor, list[str]]:
    """Images (B, 3, image_size, image_size) uint8 and, of pairs, the captions; the first max_samples of the shards.

    Bad samples are named and left out. Raises ValueError where none is left.
    """
    reader = SampleReader(read_index(folder), data.max_member_bytes)
    if reader.index.kind == "text":
        raise ValueError(f"{folder} holds texts; give shards of images or pairs")
    transform = ImageTransform(image_size, 1, 0, False, data.max_image_pixels)
    images, captions = [], []
    for sample in range(min(max_samples, reader.index.num_samples)):
        try:
            image = transform.center(reader.image_bytes(sample))
            captions += [reader.text(sample)] if reader.index.kind == "pair" else []
            images.append(image)
        except BadSampleError as error:
            warn(f"skipped {BadSample(reader.shard_name(sample), reader.key(sample), str(error))}")
    if not images:
        raise ValueError(f"{folder} has no image that can be read; give shards of images or pairs")
    return torch.from_numpy(np.stack(images)), captions


def training_masks(config: PretrainConfig, num_images: int) -> Tensor:
    """(num_images, patches) bool, True = hidden: as many patches of each image as in training, in blocks as there; the
    same for every evaluation of a run."""
    ids = torch.arange(num_images)
    grid_size, min_block = config.model.grid_size, config.objective.min_block_patches
    return block_image_masks(config.seed, ids, grid_size, config.num_masked_patches, min_block, "reference").mask
