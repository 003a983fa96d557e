"""The losses of training on held-out samples, by objective.

A chunk of each kind goes through one packed forward, as in a step of training, masked by the same functions and with
the same shares; only augmentation and stochastic depth are left out. Masks are keyed by a sample's place in its folder,
so that they are the same in every evaluation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.loading.batch import BatchShape, StepBatch, collate
from data_pipeline.samples.sample import Kind
from data_pipeline.texts.tokenizer import TextTokenizer
from model.masked_data_model import Predictions
from model.objective import OBJECTIVES
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.evaluation import Figures, Network, ratio
from pretrain.evaluation.held_out import forward_of
from pretrain.evaluation.samples import HeldOut
from pretrain.jobs.micro_step import make_micro_step

COLUMNS = 3
"""Figures of a sample per objective: see `Predictions`."""


@dataclass(frozen=True)
class HeldOutLosses:
    """Mean cross entropies of each objective, and the accuracy of hidden patches of images."""

    config: PretrainConfig
    held_out: dict[Kind, HeldOut]
    """By kind; those that are evaluated."""
    image_size: int
    """Side of the images in pixels."""
    visual_tokenizer: VisualTokenizer
    text_tokenizer: TextTokenizer
    device: torch.device

    @property
    def objectives(self) -> tuple[str, ...]:
        """Those of OBJECTIVES that the run has and that there are held-out samples for."""
        kinds: dict[str, Kind] = {"mim": "image", "mlm": "text", "mvlm_image": "pair", "mvlm_text": "pair"}
        hidden = self.config.num_masked_patches > 0
        return tuple(
            name
            for name in OBJECTIVES
            if name in self.config.objectives
            and kinds[name] in self.held_out
            and (hidden or name not in ("mim", "mvlm_image"))
        )

    @property
    def names(self) -> tuple[str, ...]:
        is_complete = self.objectives == self.config.objectives
        losses = [f"loss/{name}" for name in self.objectives] + ["loss/total"] * is_complete
        return (*losses, *["patches/acc"] * ("mim" in self.objectives))

    def figures(self, network: Network, ranks: Ranks) -> Figures:
        """Return the figures. All ranks call it."""
        forward = forward_of(network)

        def compute(places: range) -> Tensor:
            batch, weights = self.batch(places)
            micro = make_micro_step(self.config, batch.to(self.device), self.visual_tokenizer, self.text_tokenizer)
            return by_objective(forward(micro.inputs, micro.targets), weights.to(self.device), len(places))

        num_samples = max(held_out.num_samples for held_out in self.held_out.values())
        rows = ranks.by_place(num_samples, self.config.evaluation.chunk_size, compute, self.device, self._names)
        sums = rows.double().sum(0).view(len(OBJECTIVES), COLUMNS)
        means = {name: ratio(nll, count) for name, (nll, _, count) in zip(OBJECTIVES, sums, strict=True)}
        found = {f"loss/{name}": means[name] for name in self.objectives}
        weights = dict(zip(OBJECTIVES, self.config.objective.weights, strict=True))
        found["loss/total"] = sum(weights[name] * means[name] for name in self.objectives)
        _, num_right, num_patches = sums[OBJECTIVES.index("mim")]
        found["patches/acc"] = ratio(num_right, num_patches)
        return {name: found[name] for name in self.names}

    def _names(self, place: int) -> str:
        """Return the samples of each kind at a place, which share a row."""
        return " or ".join(found.name(place) for found in self.held_out.values() if place < found.num_samples)

    def batch(self, places: range) -> tuple[StepBatch, Tensor]:
        """Return the samples at these places of each kind, as far as there are some, and their weights, (samples,): 0
        for those that could not be read."""
        data = self.config.data
        shape = BatchShape(self.image_size, data.caption_length, data.text_length)
        found = [
            self.held_out[kind].sample(place)
            for kind in ("image", "pair", "text")
            if kind in self.held_out
            for place in range(places.start, min(places.stop, self.held_out[kind].num_samples))
        ]
        samples = [sample for sample, _ in found]
        return collate(0, samples, [], shape), torch.tensor([is_good for _, is_good in found]).float()


def by_objective(predictions: Predictions, weights: Tensor, num_places: int) -> Tensor:
    """Return the predictions of a chunk by place and objective, (num_places, 4 * COLUMNS), 0 for a place that a kind
    lacks. weights: (samples,), images, pairs and texts."""
    num_pairs, num_texts = len(predictions.captions), len(predictions.texts)
    num_images = len(predictions.images) - num_pairs
    images, pair_images = predictions.images.split([num_images, num_pairs])
    of_images, of_pairs, of_texts = (part[:, None] for part in weights.split([num_images, num_pairs, num_texts]))
    parts = (images * of_images, predictions.texts * of_texts, pair_images * of_pairs, predictions.captions * of_pairs)
    filled = [torch.nn.functional.pad(part, (0, 0, 0, num_places - len(part))) for part in parts]
    return torch.cat(filled, 1)
