"""k-NN and linear probe in a run: features of whole images, the class token and the mean of the patches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config.evaluation import Part
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Figures, Network
from pretrain.evaluation.features import knn_accuracy, probe_accuracy
from pretrain.evaluation.held_out import forward_of, image_inputs, targets_of
from pretrain.evaluation.labelled import Labelled
from pretrain.jobs.visual_tokens import network_view

Accuracy = Callable[[Tensor, Tensor, Tensor, Tensor], float]
METHODS: dict[Part, Accuracy] = {"knn": knn_accuracy, "probe": probe_accuracy}


@dataclass(frozen=True)
class Classes:
    """Accuracy of the classes of labelled images by k-NN and by a linear probe."""

    config: PretrainConfig
    labelled: Labelled
    parts: tuple[Part, ...]
    device: torch.device

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{part}/acc" for part in self.parts)

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        """Return the figures. All ranks call it."""
        forward, size = forward_of(network), self.config.model.image_size

        def compute(places: range) -> Tensor:
            images, is_good = self.labelled.images(places)
            pixels = network_view(images.to(self.device), size).to(self.config.dtype)
            whole = torch.zeros(len(pixels), self.config.model.num_patches, dtype=torch.bool)
            inputs = image_inputs(pixels, whole)
            features = forward(inputs, targets_of(inputs)).features
            return torch.cat([features, is_good[:, None].to(self.device)], 1)

        num_images = len(self.labelled.labels)
        chunk_size = self.config.evaluation.chunk_size
        rows = ranks.by_place(num_images, chunk_size, compute, self.device, self.labelled.name)
        return accuracies(self.parts, self.labelled, rows[:, :-1], rows[:, -1] > 0)


def accuracies(parts: tuple[Part, ...], labelled: Labelled, features: Tensor, is_good: Tensor) -> Figures:
    """Return the accuracy by each of METHODS in `parts`, NaN if there is nothing to compute it from.

    features: (images, E); is_good: (images,) bool, which of them could be read.
    """
    training, tested = is_good & ~labelled.is_test, is_good & labelled.is_test
    if not training.any() or not tested.any():
        return {f"{part}/acc": float("nan") for part in parts}
    labels = labelled.labels
    arguments = features[training], labels[training], features[tested], labels[tested]
    return {f"{part}/acc": METHODS[part](*arguments) for part in parts}
