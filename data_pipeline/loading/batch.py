"""This rank's part of the global batch of one step.

Shapes: I images, P pairs, T texts of this rank; S image side, C caption length, L text length.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data_pipeline.samples.sample import BadSample
from data_pipeline.texts.tokenizer import PAD_ID


@dataclass(eq=False)
class StepBatch:
    """This rank's part of the global batch of one step."""

    step: int
    images: Tensor
    """(I + P, 3, S, S) uint8, the image-only samples first."""
    image_sample_ids: Tensor
    """(I + P,) int64"""
    caption_ids: Tensor
    """(P, C) int64; the sample ids of captions are those of their images."""
    text_ids: Tensor
    """(T, L) int64"""
    text_sample_ids: Tensor
    """(T,) int64"""
    caption_lengths: tuple[int, ...]
    """Tokens of each caption without padding, which stay on the host."""
    text_lengths: tuple[int, ...]
    keys: list[str]
    """Sample keys, images, pairs, texts."""
    bad_samples: list[BadSample]
    """What was skipped."""
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
        """`count` equal parts, each with its part of every kind. `count` must divide all of them."""
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
                    text_ids=self.text_ids[texts],
                    text_sample_ids=self.text_sample_ids[texts],
                    caption_lengths=self.caption_lengths[pairs],
                    text_lengths=self.text_lengths[texts],
                )
            )
        return parts

    def tensors(self) -> dict[str, Tensor]:
        """Its fields that are tensors."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> "StepBatch":
        """From pinned memory without waiting for the copy."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "StepBatch":
        """In memory that a GPU copies from by itself; PyTorch's DataLoader calls it."""
        return self._with_tensors(Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "StepBatch":
        return StepBatch(**{**self.__dict__, **{name: change(tensor) for name, tensor in self.tensors().items()}})
