"""Queries and the answers that a dual encoder finds first: images by a text, texts by an image.

Shapes: I images, T texts, E dimensions; an image may have several texts, a text has one image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.evaluation.retrieval import best_images, best_texts

Picture = Callable[[int], Tensor]
"""Returns an image by its number, (3, H, W) uint8."""
NUM_ANSWERS = 5


@dataclass(frozen=True, eq=False)
class Item:
    """An image, a text, or an image with a text below it."""

    text: str = ""
    image: Tensor | None = None
    """(3, H, W) uint8."""


@dataclass(frozen=True, eq=False)
class Query:
    """A query and its best answers, best first."""

    item: Item
    answers: list[Item]
    is_right: list[bool]
    """Which of the answers belong to the query."""
    rank: int
    """Rank of the first right answer among all candidates, from 1."""
    num_candidates: int


def text_queries(
    images: Tensor,
    texts: Tensor,
    image_of_text: Tensor,
    captions: Sequence[str],
    picture: Picture,
    chosen: Sequence[int],
    names: Sequence[str] | None = None,
    num_answers: int = NUM_ANSWERS,
) -> list[Query]:
    """Return some texts with the images that they find first among all.

    images: (I, E) and texts: (T, E) features, compared by cosine; image_of_text: (T,) int64; captions: the T texts;
    chosen: numbers of the texts to ask; names: I texts to show below the images, None for none.
    """
    asked = torch.as_tensor(chosen, dtype=torch.int64)
    found = best_images(images, texts[asked], image_of_text[asked], num_answers)
    return [
        Query(
            Item(captions[text]),
            [Item("" if names is None else names[image], picture(image)) for image in order],
            is_right,
            rank + 1,
            len(images),
        )
        for text, order, is_right, rank in zip(chosen, *(part.tolist() for part in found), strict=True)
    ]


def image_queries(
    images: Tensor,
    texts: Tensor,
    image_of_text: Tensor,
    captions: Sequence[str],
    picture: Picture,
    chosen: Sequence[int],
    num_answers: int = NUM_ANSWERS,
) -> list[Query]:
    """Return some images with the texts that they find first among all; arguments as in `text_queries`.

    chosen: numbers of the images to ask, each of which has a text.
    """
    asked = torch.as_tensor(chosen, dtype=torch.int64)
    found = best_texts(images, texts, image_of_text, asked, num_answers)
    return [
        Query(Item(image=picture(image)), [Item(captions[text]) for text in order], is_right, rank + 1, len(texts))
        for image, order, is_right, rank in zip(chosen, *(part.tolist() for part in found), strict=True)
    ]
