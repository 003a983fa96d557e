"""Queries and the answers that a dual encoder finds first: images by a text, texts by an image.

Shapes: I images, T texts, E dimensions; an image may have several texts, a text has one image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.dual_encoder import DualEncoder
from pretrain.checkpoints.reader import Checkpoint
from pretrain.config.contrast import ContrastConfig
from pretrain.evaluation.captioned_images import open_captioned_images
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.contrast import feature_settings
from pretrain.evaluation.dual_features import FeatureReader
from pretrain.evaluation.pair_figures import first_of_each, usable_pairs
from pretrain.evaluation.retrieval import best_images, best_texts
from pretrain.reporting.embedded import data_uri

Picture = Callable[[int], Tensor]
"""Returns an image by its number, (3, H, W) uint8."""
NUM_ANSWERS = 5
MOST_PAIRS = 256
"""Held-out pairs that the gallery of a report searches, the first: a page is written in seconds, also on a laptop."""


@dataclass(frozen=True, eq=False)
class Item:
    """An image, a text, or an image with a text below it."""

    text: str = ""
    image: Tensor | None = None
    """(3, H, W) uint8."""

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        assert self.image is not None
        return data_uri(self.image)


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


@dataclass(frozen=True)
class RetrievalGallery:
    """Queries in both directions among the same pairs."""

    texts: list[Query]
    images: list[Query]


@torch.no_grad()
def retrieval_gallery(
    checkpoint: Checkpoint[ContrastConfig], network: DualEncoder, held_out: Path, num_queries: int
) -> RetrievalGallery:
    """Return the first held-out images, and the first caption of each, as queries among the first MOST_PAIRS pairs.

    held_out: shards of pairs, or another source of them. As in the figures, images that cannot be read and captions
    without a token count as neither query nor candidate. Raises ValueError if nothing is left.
    """
    config = checkpoint.config
    settings = feature_settings(config, torch.device("cpu"), checkpoint.text_tokenizer)
    pairs = open_captioned_images(str(held_out), "--held-out", MOST_PAIRS, None, config.data, settings.image_size)
    reader = FeatureReader(network.to(settings.dtype), settings, Ranks())
    images, texts = reader.of_images(pairs, pairs.num_images, pairs.name), reader.of_texts(pairs.captions)
    usable = usable_pairs(images, texts, pairs.image_of_caption)
    if not len(usable.owners):
        raise ValueError(f"--held-out {pairs.source}: none of its first {pairs.num_images} images can be used")
    captions = [pairs.captions[place] for place in usable.places_of_texts.tolist()]
    found = usable.images, usable.texts, usable.owners, captions
    asked, first_captions = (part[:num_queries].tolist() for part in first_of_each(usable.owners))

    def picture(place: int) -> Tensor:
        return pairs.images([int(usable.places_of_images[place])])[0][0]

    return RetrievalGallery(text_queries(*found, picture, first_captions), image_queries(*found, picture, asked))


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
