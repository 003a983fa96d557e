"""Retrieval of a dual encoder: does the text find its image among all images, and the image one of its texts?

Shapes: I images, T texts, E dimensions; an image may have several texts, a text has one image.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

RANKS = (1, 5, 10)
"""K of the reported recalls R@K."""
DIRECTIONS = ("text_to_image", "image_to_text")
NAMES = tuple(f"retrieval/{direction}_r{k}" for direction in DIRECTIONS for k in RANKS)
"""Names of the figures."""
CHUNK = 1024
TIE = 1e-12
"""Similarities that differ by less are equal: a matrix product gives equal columns values that differ by 1e-16."""


class Answers(NamedTuple):
    """The answers to some queries, Q of them."""

    order: Tensor
    """(Q, K) int64, the best answers, best first."""
    is_right: Tensor
    """(Q, K) bool, which of them belong to the query."""
    ranks: Tensor
    """(Q,) int64, rank of the first right answer among all, from 0."""


def retrieval_recall(images: Tensor, texts: Tensor, image_of_text: Tensor) -> dict[str, float]:
    """Return R@1, R@5 and R@10 in both directions, by the names of the figures.

    images: (I, E); texts: (T, E); compared by cosine; image_of_text: (T,) int64, the image that each text belongs to.
    An image counts as found if any of its texts is among the K nearest; images without texts are not asked for.
    Whatever is as similar as the sought one comes before it: features that are all alike find nothing, and a caption
    that two images have is found first by neither.
    """
    text_ranks = torch.cat([ranks for _, _, ranks in _by_chunk(texts, images, image_of_text, None)])
    asked = torch.unique(image_of_text)  # sorted
    image_ranks = torch.cat([ranks for _, _, ranks in _by_chunk(images[asked], texts, asked, image_of_text)])
    return {
        f"retrieval/{name}_r{k}": int((ranks < k).sum()) / len(ranks)
        for name, ranks in zip(DIRECTIONS, (text_ranks, image_ranks), strict=True)
        for k in RANKS
    }


def best_images(images: Tensor, texts: Tensor, image_of_text: Tensor, num_answers: int) -> Answers:
    """Return the images that each text finds first. Shapes as in `retrieval_recall`."""
    return _best(texts, images, image_of_text, None, num_answers)


def best_texts(images: Tensor, texts: Tensor, image_of_text: Tensor, asked: Tensor, num_answers: int) -> Answers:
    """Return the texts that some images find first. asked: (Q,) int64, the images, each of which has a text."""
    return _best(images[asked], texts, asked, image_of_text, num_answers)


def similarity(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return the cosines of (B, E) and (n, E) features, (B, n) float64, in which ties are those of the features."""
    return normalize(queries.double(), dim=1) @ normalize(candidates.double(), dim=1).T


def rank_of_best(similarities: Tensor, is_sought: Tensor) -> Tensor:
    """Return how many of the others come before the best sought one, (B,), whatever is as similar among them.

    similarities, is_sought: (B, n), of which each row seeks at least one.
    """
    best = similarities.masked_fill(~is_sought, -torch.inf).amax(1, keepdim=True)
    # in this form what is not a number finds nothing either
    return (~(similarities < best - TIE) & ~is_sought).sum(1)


def _by_chunk(
    queries: Tensor, candidates: Tensor, own: Tensor, owners: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield similarities (B, n), which candidates are sought (B, n), and the ranks of the best of them (B,).

    own: (Q,) what each query seeks; owners: (n,) what each candidate is, None if that is its place.
    """
    if owners is None:
        owners = torch.arange(len(candidates), device=own.device)
    for chunk, sought in zip(queries.split(CHUNK), own.split(CHUNK), strict=True):
        similarities, is_sought = similarity(chunk, candidates), sought[:, None] == owners
        yield similarities, is_sought, rank_of_best(similarities, is_sought)


def _best(queries: Tensor, candidates: Tensor, own: Tensor, owners: Tensor | None, num_answers: int) -> Answers:
    found = []
    for similarities, is_sought, ranks in _by_chunk(queries, candidates, own, owners):
        # of equals the wrong ones come first, as they count
        order = (similarities - TIE * is_sought).argsort(1, descending=True)[:, :num_answers]
        found.append((order, is_sought.gather(1, order), ranks))
    return Answers(*(torch.cat(parts) for parts in zip(*found, strict=True)))
