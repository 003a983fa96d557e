"""Figures of a dual encoder on held-out pairs: the contrastive loss, and recall of retrieval in both directions.

The loss is that of one batch of all held-out images, each with its first caption, so that it depends on neither ranks
nor chunks. It grows with their number, as that of training does with its batch: a network that has learned nothing is
at ln(images).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.contrastive_loss import row_statistics, sigmoid_rows
from pretrain.config.evaluation import Part
from pretrain.evaluation.captioned_images import CaptionedImages
from pretrain.evaluation.dual_features import FeatureReader, Features
from pretrain.evaluation.evaluation import Figures, left_out
from pretrain.evaluation.retrieval import NAMES, retrieval_recall

LOSS = "loss/contrastive"


class UsablePairs(NamedTuple):
    """Features of the images that could be read, and of their captions that have a token."""

    images: Tensor
    """(I, D) float32."""
    texts: Tensor
    """(T, D) float32."""
    owners: Tensor
    """(T,) int64: row of the image of each text."""
    places_of_images: Tensor
    """(I,) int64: place of each among all images."""
    places_of_texts: Tensor
    """(T,) int64: place of each among all texts."""


def usable_pairs(images: Features, texts: Features, owners: Tensor) -> UsablePairs:
    """Return what counts in figures: images that could not be read are no candidates; all others are, with a caption
    or without.

    owners: (texts,) int64, the place of the image of each text.
    """
    kept = texts.is_good & images.is_good[owners]
    row = images.is_good.cumsum(0) - 1
    return UsablePairs(
        images.rows[images.is_good],
        texts.rows[kept],
        row[owners[kept]],
        images.is_good.nonzero()[:, 0],
        kept.nonzero()[:, 0],
    )


@dataclass
class PairFigures:
    """The contrastive loss and the recalls, as far as `parts` names them."""

    pairs: CaptionedImages
    parts: tuple[Part, ...]
    measured: tuple[int, int] | None = None
    """Numbers of images and of captions that the last evaluation could use; None before the first."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*[LOSS] * ("losses" in self.parts), *(NAMES if "retrieval" in self.parts else ()))

    def figures(self, reader: FeatureReader) -> Figures:
        """Return the figures. All ranks call it. Raises Interrupted."""
        images = reader.of_images(self.pairs, self.pairs.num_images, self.pairs.name)
        texts = reader.of_texts(self.pairs.captions)
        usable = usable_pairs(images, texts, self.pairs.image_of_caption)
        self.measured = len(usable.images), len(usable.texts)
        if not len(usable.texts):
            return dict.fromkeys(self.names, float("nan"))
        found: Figures = {}
        if "losses" in self.parts:
            asked, first = first_of_each(usable.owners)
            rows = usable.images[asked], usable.texts[first]
            found[LOSS] = contrastive_loss(*rows, images.logit_scale, images.logit_bias)
        if "retrieval" in self.parts:
            found |= retrieval_recall(usable.images, usable.texts, usable.owners)
        return found

    def describe(self) -> str:
        """Return a line on the pairs that the last evaluation used."""
        num_images, num_captions = self.measured or (self.pairs.num_images, len(self.pairs.captions))
        without = left_out(len(self.pairs.captions) - num_captions)
        return f"{num_images} images with {num_captions} captions from {self.pairs.source}{without}"


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> float:
    """Return the loss of one batch of pairs in nats: symmetric cross-entropy, or with a bias SigLIP's.

    images, texts: (B, D) of length 1; logit_scale: (), natural logarithm; logit_bias: (), NaN for none.
    """
    images, texts, scale = images.double(), texts.double(), logit_scale.double().exp()
    if not logit_bias.isnan():
        return float(sigmoid_rows(images, texts, 0, scale, logit_bias.double()).loss) / len(images)
    directions = (row_statistics(images, texts, 0, scale), row_statistics(texts, images, 0, scale))
    return sum(float((found.logsumexp - found.positives).mean()) for found in directions) / 2


def first_of_each(owners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images that have captions, in order, and the place of the first caption of each.

    owners: (captions,) int64, the image of each caption, in order.
    """
    is_first = torch.ones_like(owners, dtype=torch.bool)
    is_first[1:] = owners[1:] != owners[:-1]
    return owners[is_first], is_first.nonzero()[:, 0]
