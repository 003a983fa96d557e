"""Zero-shot classification: which class's texts is an image nearest to?

The feature of a class is the mean of the normalized features of its texts, normalized again, as in CLIP (arXiv
2103.00020, section 3.1.4).

Shapes: B images, C classes, P templates, E dimensions.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.evaluation.retrieval import rank_of_best, similarity

RANKS = (1, 5)
"""K of the reported accuracies."""
CHUNK = 1024


def accuracy_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of the figures; none for a K at which every image is right."""
    return tuple(f"zero_shot/acc{k}" for k in RANKS if k < num_classes)


def class_features(texts: Tensor, num_classes: int) -> Tensor:
    """Return the features of classes, (C, E), from those of their texts, (C P, E), a class's beside each other."""
    return normalize(normalize(texts.float(), dim=-1).view(num_classes, -1, texts.shape[-1]).mean(1), dim=-1)


def zero_shot_accuracy(images: Tensor, classes: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the share of images whose class is among the K nearest, by the names of the figures.

    images: (B, E); classes: (C, E); labels: (B,) int64. A class as near as the right one comes before it, as in
    retrieval: of two classes with the same name neither is found first.
    """
    numbers = torch.arange(len(classes))
    ranks = torch.cat(
        [
            rank_of_best(similarity(chunk, classes), own[:, None] == numbers)
            for chunk, own in zip(images.split(CHUNK), labels.split(CHUNK), strict=True)
        ]
    )
    return {
        name: int((ranks < k).sum()) / len(labels) for name, k in zip(accuracy_names(len(classes)), RANKS, strict=False)
    }
