"""Retrieval of a dual encoder: does the text find its image among all images, and the image one of its texts?

Shapes: I images, T texts, E dimensions; an image may have several texts, a text has one image.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

RANKS = (1, 5, 10)
"""K of the reported recalls R@K."""
CHUNK = 1024


def retrieval_recall(images: Tensor, texts: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """Return R@1, R@5 and R@10 in both directions, by the names of the figures.

    images: (I, E); texts: (T, E); compared by cosine; image_of_text: (T,) int64, the image that each text belongs to.
    An image counts as found if any of its texts is among the K nearest; images without texts are not asked for.
    Whatever is as similar as the sought one comes before it: features that are all alike find nothing.
    """
    images, texts = normalize(images.float(), dim=1), normalize(texts.float(), dim=1)
    text_ranks = torch.cat(
        [
            _rank((chunk @ images.T), own[:, None] == torch.arange(len(images), device=own.device))
            for chunk, own in zip(texts.split(CHUNK), image_of_text.split(CHUNK), strict=True)
        ]
    )
    asked = torch.unique(image_of_text)  # sorted
    image_ranks = torch.cat(
        [_rank(images[chunk] @ texts.T, chunk[:, None] == image_of_text) for chunk in asked.split(CHUNK)]
    )
    directions = {"text_to_image": text_ranks, "image_to_text": image_ranks}
    return {
        f"retrieval/{name}_r{k}": int((ranks < k).sum()) / len(ranks)
        for name, ranks in directions.items()
        for k in RANKS
    }


def _rank(similarities: Tensor, is_sought: Tensor) -> Tensor:
    """Return how many of the others come before the best sought one, (B,).

    similarities, is_sought: (B, n), of which each row seeks at least one.
    """
    best = similarities.masked_fill(~is_sought, -torch.inf).amax(1, keepdim=True)
    return (~(similarities < best) & ~is_sought).sum(1)  # in this form what is not a number finds nothing either
