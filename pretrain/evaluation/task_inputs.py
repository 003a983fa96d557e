"""From samples of a task to the inputs of its network, without augmentation, masks and stochastic depth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.loading.task_batch import TaskBatch
from data_pipeline.samples.tasks import Task
from model.multiway import MultiwayInputs
from model.task_inputs import image_inputs, pair_inputs, twin_pair_inputs


@dataclass(frozen=True)
class TaskInputs:
    """How samples of a task become inputs of its network."""

    task: Task
    patch_size: int
    dtype: torch.dtype
    device: torch.device
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from red, green and blue in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divides them after that."""

    def pixels(self, images: Tensor) -> Tensor:
        """Return images (B, 3, S, S), uint8, as the network takes them."""
        mean, std = (torch.tensor(part, device=images.device).view(3, 1, 1) for part in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).to(self.dtype)

    def of(self, batch: TaskBatch, ids: Tensor | None = None) -> MultiwayInputs:
        """Return the inputs of a batch on the device. ids: (B, L), instead of those of the batch."""
        images = self.pixels(batch.images)
        if self.task == "classify":
            return image_inputs(images, self.patch_size)
        padding, lengths = batch.text_padding, batch.text_lengths
        ids = batch.text_ids if ids is None else ids
        assert ids is not None and padding is not None
        if self.task == "nlvr2":
            assert batch.second_images is not None
            second = self.pixels(batch.second_images)
            return twin_pair_inputs(images, second, ids, padding, self.patch_size, lengths)
        return pair_inputs(images, ids, padding, self.patch_size, lengths, causal=self.task == "caption")
