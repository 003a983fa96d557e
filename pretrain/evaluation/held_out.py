"""Parts that evaluations share: held-out samples without augmentation, masks, and the inputs of the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.config import DataConfig
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import PAD_ID
from model.kernels.block_masks import block_image_masks
from model.masked_data_model import MaskedTargets, Predictions
from model.multiway import MultiwayInputs
from model.objective import IGNORE_INDEX
from pretrain.config.pretraining import PretrainConfig
from pretrain.survival.console import warn

Forward = Callable[[MultiwayInputs, MaskedTargets], Predictions]
"""A forward of the network by sample: of a model, or of an engine, where all ranks call it."""


def forward_of(network: Callable[..., Any]) -> Forward:
    """Return the forward of a MaskedDataModel, or of an engine around one, without gradients."""

    @torch.no_grad()
    def forward(inputs: MultiwayInputs, targets: MaskedTargets) -> Predictions:
        found = network(inputs, targets, None, True)
        assert isinstance(found, Predictions)
        return found

    return forward


def read_held_out(
    folder: Path, data: DataConfig, image_size: int, max_samples: int, kinds: tuple[Kind, ...] = ("image", "pair")
) -> tuple[Tensor, list[str]]:
    """Return the centres of images, (B, 3, image_size, image_size) uint8, and the captions of pairs.

    max_samples: the number of samples, the first of the shards; kinds: of shards that are accepted. Bad samples are
    reported and left out. Raises ValueError for another kind, and if no sample is left.
    """
    reader = SampleReader(read_index(folder), data.max_member_bytes)
    if reader.index.kind not in kinds:
        accepted = " or ".join(map(repr, kinds))
        raise ValueError(f"{folder} holds shards of kind {reader.index.kind!r}, not {accepted}; give the right folder")
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
    """Return masks (num_images, patches) bool, True = hidden: as many patches per image as in training, in blocks as
    there, the same in every evaluation of a run."""
    ids = torch.arange(num_images)  # masks are keyed by seed and sample id, here the place among the held-out ones
    grid_size, min_block = config.model.grid_size, config.objective.min_block_patches
    return block_image_masks(config.seed, ids, grid_size, config.num_masked_patches, min_block, "reference").mask


def pair_inputs(pixels: Tensor, mask: Tensor, caption_ids: Tensor) -> MultiwayInputs:
    """Return the network's inputs for pairs.

    pixels: (P, 3, H, W) as the network takes them; mask: (P, patches) bool, True = hidden; caption_ids: (P, C), on the
    host, filled up with PAD_ID.
    """
    padding = caption_ids == PAD_ID
    no_text = torch.zeros(0, 1, dtype=torch.int64, device=pixels.device)
    return MultiwayInputs(
        images=pixels,
        image_mask=mask.to(pixels.device),
        caption_ids=caption_ids.to(pixels.device),
        caption_padding=padding.to(pixels.device),
        text_ids=no_text,
        text_padding=no_text.bool(),
        caption_lengths=tuple((~padding).sum(1).tolist()),
        text_lengths=(),
    )


def image_inputs(pixels: Tensor, mask: Tensor) -> MultiwayInputs:
    """Return the network's inputs for images alone. Shapes as in `pair_inputs`."""
    return pair_inputs(pixels, mask, torch.zeros(0, 1, dtype=torch.int64))


def targets_of(
    inputs: MultiwayInputs,
    patches: tuple[Tensor, Tensor] | None = None,
    words: tuple[list[list[int]], list[list[int]]] | None = None,
) -> MaskedTargets:
    """Return the targets of inputs without texts.

    patches: positions and codes of the hidden patches of each image, (B, M) int64 each; None: none. words: positions
    and ids of the hidden words of each caption; None: none.
    """
    device, num_pairs = inputs.images.device, len(inputs.caption_ids)
    none = torch.zeros(0, 1, dtype=torch.int64, device=device)
    no_patches = torch.zeros(len(inputs.images), 0, dtype=torch.int64, device=device)
    image_positions, codes = (no_patches, no_patches) if patches is None else patches
    positions, labels = words if words is not None else ([[]] * num_pairs, [[]] * num_pairs)
    longest = max(map(len, labels), default=1) or 1

    def filled(rows: list[list[int]], value: int) -> Tensor:
        same_length = [row + [value] * (longest - len(row)) for row in rows]
        return torch.tensor(same_length, dtype=torch.int64, device=device).view(-1, longest)

    return MaskedTargets(
        image_positions=image_positions.to(device),
        visual_token_ids=codes.to(device),
        caption_positions=filled(positions, 0),
        caption_labels=filled(labels, IGNORE_INDEX),
        text_positions=none,
        text_labels=none,
        caption_counts=tuple(map(len, labels)),
        text_counts=(),
    )
