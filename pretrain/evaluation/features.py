"""Do frozen features tell classes apart? k nearest neighbors and a linear probe, both without a training loop.

k-NN as in DINO (arXiv 2104.14294, eval_knn.py): the k nearest training images by cosine vote for their class with
weight exp(cosine / 0.07). The probe is a ridge regression onto the classes in closed form, on standardized features.

Shapes: N training and M tested images, E features.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

NUM_NEIGHBORS = 20
TEMPERATURE = 0.07
"""DINO's values of both."""
RIDGE = 0.01
"""Penalty of the regression, relative to the variance of a feature; not tuned."""
CHUNK = 512
"""Tested images whose similarities are in memory at once: with ImageNet's 25,000 training images 0.1 GB, not 5."""


def knn_accuracy(
    features: Tensor, labels: Tensor, tested: Tensor, expected: Tensor, num_neighbors: int = NUM_NEIGHBORS
) -> float:
    """Return the share of tested images whose neighbors vote for their class; of tied classes the first counts.

    features: (N, E); labels: (N,) int64; tested: (M, E); expected: (M,). NaN if a feature is not finite.
    """
    if not (features.isfinite().all() and tested.isfinite().all()):
        return math.nan
    known, num_classes = normalize(features.double(), dim=1).T, int(torch.cat([labels, expected]).max()) + 1
    guesses = []
    for chunk in tested.split(CHUNK):
        similarities = normalize(chunk.double(), dim=1) @ known
        nearest, places = similarities.topk(min(num_neighbors, len(features)), dim=1)
        weights = ((nearest - 1) / TEMPERATURE).exp()  # - 1: the same votes, without overflow
        votes = torch.zeros(len(chunk), num_classes, dtype=weights.dtype).scatter_add_(1, labels[places], weights)
        guesses.append(votes.argmax(1))
    return share_right(torch.cat(guesses), expected)


def probe_accuracy(features: Tensor, labels: Tensor, tested: Tensor, expected: Tensor) -> float:
    """Return the share of tested images that a ridge regression on the training images assigns to their class.

    Arguments as in `knn_accuracy`.
    """
    if not (features.isfinite().all() and tested.isfinite().all()):
        return math.nan
    x, x_new = features.double(), tested.double()
    center, deviation = x.mean(0), x.std(0).clamp(min=1e-12)  # a feature that never changes tells nothing
    x, x_new = (x - center) / deviation, (x_new - center) / deviation
    num_classes = int(torch.cat([labels, expected]).max()) + 1
    targets = one_hot(labels, num_classes).double()
    shares = targets.mean(0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (targets - shares))
    return share_right((x_new @ weights + shares).argmax(1), expected)


def share_right(guesses: Tensor, expected: Tensor) -> float:
    """Return the share of equal entries."""
    return int((guesses == expected).sum()) / len(expected)
