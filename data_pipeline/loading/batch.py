"""This rank's part of the global batch of one step, and how it is put together from samples.

Shapes: I images, P pairs, T texts of this rank; S image side, C caption length, L text length.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.loading.tensor_fields import TensorFields
from data_pipeline.samples.sample import BadSample, Kind
from data_pipeline.texts.tokenizer import PAD_ID


@dataclass(frozen=True)
class LoadedSample:
    """One sample as the network sees it."""

    kind: Kind
    sample_id: int
    key: str
    pixels: NDArray[np.uint8] | None
    """(3, S, S); None for a text."""
    ids: list[int] | None
    """Token ids, padded to C or L; None for an image without a caption."""
    text_hash: int | None = None
    """For a pair in training: equal for equal captions, and for all images of a class."""


@dataclass(frozen=True)
class BatchShape:
    """The sizes that all batches of a run share."""

    image_size: int
    caption_length: int
    text_length: int


@dataclass(eq=False)
class StepBatch(TensorFields):
    """This rank's part of the global batch of one step."""

    step: int
    images: Tensor
    """(I + P, 3, S, S) uint8, the image-only samples first."""
    image_sample_ids: Tensor
    """(I + P,) int64"""
    caption_ids: Tensor
    """(P, C) int64; the sample ids of captions are those of their images."""
    caption_hashes: Tensor
    """(P,) int64, equal for equal captions, and for all images of a class."""
    text_ids: Tensor
    """(T, L) int64"""
    text_sample_ids: Tensor
    """(T,) int64"""
    caption_lengths: tuple[int, ...]
    """The number of tokens of each caption without padding.

    A tuple, not a tensor: the packed layout, and with it every shape of the step, follows from the lengths. Read back
    from the device, they would make each step wait for the one before.
    """
    text_lengths: tuple[int, ...]
    """The number of tokens of each text without padding."""
    keys: list[str]
    """Sample keys: of the images, the pairs, the texts."""
    bad_samples: list[BadSample]
    """Samples that were skipped."""
    failure: str = ""
    """Why this batch could not be read and is empty."""

    @property
    def caption_padding(self) -> Tensor:
        """(P, C) bool, True = padding."""
        return self.caption_ids == PAD_ID

    @property
    def text_padding(self) -> Tensor:
        """(T, L) bool, True = padding."""
        return self.text_ids == PAD_ID

    def micro_batches(self, count: int) -> list["StepBatch"]:
        """Split into `count` equal parts, each with its part of every kind. `count` must divide all of them."""
        num_pairs = len(self.caption_ids)
        num_images = len(self.images) - num_pairs
        assert num_images % count == num_pairs % count == len(self.text_ids) % count == 0
        if count == 1:
            return [self]
        parts = []
        for number in range(count):
            images, pairs, texts = (
                slice(number * total // count, (number + 1) * total // count)
                for total in (num_images, num_pairs, len(self.text_ids))
            )
            pair_images = slice(num_images + pairs.start, num_images + pairs.stop)
            parts.append(
                replace(
                    self,
                    images=torch.cat([self.images[images], self.images[pair_images]]),
                    image_sample_ids=torch.cat([self.image_sample_ids[images], self.image_sample_ids[pair_images]]),
                    caption_ids=self.caption_ids[pairs],
                    caption_hashes=self.caption_hashes[pairs],
                    text_ids=self.text_ids[texts],
                    text_sample_ids=self.text_sample_ids[texts],
                    caption_lengths=self.caption_lengths[pairs],
                    text_lengths=self.text_lengths[texts],
                )
            )
        return parts


def collate(
    step: int, samples: list[LoadedSample], bad_samples: list[BadSample], shape: BatchShape, failure: str = ""
) -> StepBatch:
    """Put samples together, in the order images, pairs, texts. Without samples the tensors have their shapes too."""
    with_pixels = [sample for sample in samples if sample.pixels is not None]
    pixels = [sample.pixels for sample in with_pixels if sample.pixels is not None]
    pairs = [sample for sample in samples if sample.kind == "pair"]
    size = shape.image_size
    caption_ids = _ids("pair", samples, shape.caption_length)
    text_ids = _ids("text", samples, shape.text_length)
    text_sample_ids = [sample.sample_id for sample in samples if sample.kind == "text"]
    return StepBatch(
        step=step,
        images=torch.from_numpy(np.stack(pixels) if pixels else np.empty((0, 3, size, size), np.uint8)),
        image_sample_ids=torch.tensor([sample.sample_id for sample in with_pixels], dtype=torch.int64),
        caption_ids=caption_ids,
        caption_hashes=torch.tensor([sample.text_hash or 0 for sample in pairs], dtype=torch.int64),
        text_ids=text_ids,
        text_sample_ids=torch.tensor(text_sample_ids, dtype=torch.int64),
        caption_lengths=_lengths(caption_ids),
        text_lengths=_lengths(text_ids),
        keys=[sample.key for sample in samples],
        bad_samples=bad_samples,
        failure=failure,
    )


def _ids(kind: Kind, samples: list[LoadedSample], length: int) -> Tensor:
    """Return the token ids of the samples of a kind, (B, length) int64."""
    rows = [sample.ids for sample in samples if sample.kind == kind]
    return torch.tensor(rows, dtype=torch.int64).view(-1, length)


def _lengths(ids: Tensor) -> tuple[int, ...]:
    """Return the number of tokens of each row of (B, L) ids without padding."""
    return tuple((ids != PAD_ID).sum(1).tolist())
