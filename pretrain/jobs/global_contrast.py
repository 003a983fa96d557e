"""The contrastive loss of the global batch, its rows shared among the ranks.

Each rank computes the rows of its own images and those of its own texts, against the features of all ranks. The ranks
exchange features and, for softmax, two numbers per pair. Memory is linear in the global batch: 2 B D floats of features
on every rank, 50 MB each way for 16k pairs of 768, and one chunk of logits (model/contrastive_loss.py).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from model.contrastive_loss import CHUNK_LOGITS, row_statistics, sigmoid_rows, softmax_gradient
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
    images: Tensor, texts: Tensor, logit_scale: Tensor, logit_bias: Tensor | None, chunk_logits: int = CHUNK_LOGITS
) -> GlobalContrast:
    """Return the loss of the pairs of all ranks; softmax, or sigmoid with a logit_bias. All ranks call it.

    images, texts: (b, D) float32 features of this rank's pairs, as many on every rank; logit_scale: (), the natural
    logarithm of the factor of similarities. Reads nothing from the device.
    """
    first, num_pairs = dist.get_rank() * len(images), dist.get_world_size() * len(images)
    all_images, all_texts = gathered_from_ranks(torch.stack([images, texts], 1)).unbind(1)
    scale = logit_scale.exp()
    if logit_bias is not None:
        rows = sigmoid_rows(images, all_texts, first, scale, logit_bias, chunk_logits)
        columns = sigmoid_rows(texts, all_images, first, scale, logit_bias, chunk_logits)
        # rows of images are all of the loss, and so are rows of texts: one of them counts
        sums = _sums(rows.loss, rows.are_right, columns.are_right) / num_pairs
        return GlobalContrast(
            loss=sums[0],
            accuracy=sums[1:],
            image_gradient=rows.gradient / num_pairs,
            text_gradient=columns.gradient / num_pairs,
            bias_gradient=rows.bias_gradient / num_pairs,
        )
    of_images = row_statistics(images, all_texts, first, scale, chunk_logits)
    of_texts = row_statistics(texts, all_images, first, scale, chunk_logits)
    by_image, by_text = of_images.logsumexp, of_texts.logsumexp
    all_by_image, all_by_text = gathered_from_ranks(torch.stack([by_image, by_text], 1)).unbind(1)
    loss = (by_image + by_text - 2 * of_images.positives).sum() / 2
    sums = _sums(loss, of_images.are_right, of_texts.are_right) / num_pairs
    image_gradient = softmax_gradient(images, all_texts, first, scale, by_image, all_by_text, chunk_logits)
    text_gradient = softmax_gradient(texts, all_images, first, scale, by_text, all_by_image, chunk_logits)
    return GlobalContrast(
        loss=sums[0],
        accuracy=sums[1:],
        image_gradient=image_gradient / (2 * num_pairs),
        text_gradient=text_gradient / (2 * num_pairs),
        bias_gradient=torch.zeros_like(logit_scale),
    )


def _sums(loss: Tensor, images_are_right: Tensor, texts_are_right: Tensor) -> Tensor:
    """Return the three sums over all ranks, (3,)."""
    return summed_over_ranks(torch.stack([loss, images_are_right.sum().float(), texts_are_right.sum().float()]))
