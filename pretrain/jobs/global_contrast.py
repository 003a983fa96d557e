"""The contrastive loss of the global batch, its rows shared among the ranks.

Each rank computes the rows of its own images and those of its own texts, against the features of all ranks. The ranks
exchange features, for softmax two numbers per pair, and one if equal texts are ignored. Memory is linear in the global
batch: 2 B D floats of features on every rank, 50 MB each way for 16k pairs of 768, and one chunk of logits
(model/contrastive_loss.py).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from model.contrastive_loss import CHUNK_LOGITS, PairNumbers, row_statistics, sigmoid_rows, softmax_gradient
from pretrain.survival.agreement import gathered_from_ranks, summed_over_ranks


class GlobalContrast(NamedTuple):
    """The loss of the global batch and its gradients, those of parameters and features as this rank's part of a sum.

    The gradient with respect to logit_scale is not here: the scale multiplies the features of images, so it is the
    sum of images * image_gradient over all ranks.
    """

    loss: Tensor
    """(), the same on every rank."""
    accuracy: Tensor
    """(2,), the share of images whose own text is the nearest, and of texts whose own image is; the same on every
    rank."""
    image_gradient: Tensor
    """(b, D), of the loss of the global batch with respect to this rank's features."""
    text_gradient: Tensor
    """(b, D)"""
    bias_gradient: Tensor
    """(), this rank's part of the gradient with respect to logit_bias; 0 for softmax."""


@torch.no_grad()
def global_contrast(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    chunk_logits: int = CHUNK_LOGITS,
    pair_numbers: Tensor | None = None,
) -> GlobalContrast:
    """Return the loss of the pairs of all ranks; softmax, or sigmoid with a logit_bias. All ranks call it.

    images, texts: (b, D) float32 features of this rank's pairs, as many on every rank; logit_scale: (), the natural
    logarithm of the factor of similarities; pair_numbers: (b,) int64, equal for pairs of this or another rank that are
    not compared with each other, None to compare all. Reads nothing from the device.
    """
    numbers = None if pair_numbers is None else PairNumbers(pair_numbers, gathered_from_ranks(pair_numbers))
    all_images, all_texts = gathered_from_ranks(torch.stack([images, texts], 1)).unbind(1)
    parts = _Parts(images, texts, all_images, all_texts, numbers)
    scale = logit_scale.exp()
    if logit_bias is None:
        return _softmax(parts, scale, chunk_logits)
    return _sigmoid(parts, scale, logit_bias, chunk_logits)


class _Parts(NamedTuple):
    """Features of this rank's pairs, (b, D), and of those of all ranks, (B, D), and which are not compared."""

    images: Tensor
    texts: Tensor
    all_images: Tensor
    all_texts: Tensor
    numbers: PairNumbers | None

    @property
    def first(self) -> int:
        """The place of this rank's first pair in the global batch."""
        return dist.get_rank() * len(self.images)


def _softmax(parts: _Parts, scale: Tensor, chunk_logits: int) -> GlobalContrast:
    images, texts, all_images, all_texts, numbers = parts
    of_images = row_statistics(images, all_texts, parts.first, scale, chunk_logits, numbers)
    of_texts = row_statistics(texts, all_images, parts.first, scale, chunk_logits, numbers)
    by_image, by_text = of_images.logsumexp, of_texts.logsumexp
    all_by_image, all_by_text = gathered_from_ranks(torch.stack([by_image, by_text], 1)).unbind(1)
    loss = (by_image + by_text - 2 * of_images.positives).sum() / 2
    sums = _sums(loss, of_images.are_right, of_texts.are_right) / len(all_images)
    of_rows = softmax_gradient(images, all_texts, parts.first, scale, by_image, all_by_text, chunk_logits, numbers)
    of_columns = softmax_gradient(texts, all_images, parts.first, scale, by_text, all_by_image, chunk_logits, numbers)
    twice = 2 * len(all_images)
    return GlobalContrast(sums[0], sums[1:], of_rows / twice, of_columns / twice, torch.zeros_like(scale))


def _sigmoid(parts: _Parts, scale: Tensor, bias: Tensor, chunk_logits: int) -> GlobalContrast:
    images, texts, all_images, all_texts, numbers = parts
    by_image = sigmoid_rows(images, all_texts, parts.first, scale, bias, chunk_logits, numbers)
    by_text = sigmoid_rows(texts, all_images, parts.first, scale, bias, chunk_logits, numbers)
    # rows of images are all of the loss, and so are rows of texts: one of them counts
    num_pairs = len(all_images)
    sums = _sums(by_image.loss, by_image.are_right, by_text.are_right) / num_pairs
    gradients = (part / num_pairs for part in (by_image.gradient, by_text.gradient, by_image.bias_gradient))
    return GlobalContrast(sums[0], sums[1:], *gradients)


def _sums(loss: Tensor, images_are_right: Tensor, texts_are_right: Tensor) -> Tensor:
    """Return the three sums over all ranks, (3,)."""
    return summed_over_ranks(torch.stack([loss, images_are_right.sum().float(), texts_are_right.sum().float()]))
