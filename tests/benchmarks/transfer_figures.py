"""Zero-shot retrieval of pictures by names and of names by pictures, over all concepts of one artist.

Counted strictly: of pictures that an artist draws alike only the concept's own is right, and whatever is as similar as
that comes before it. Shapes: n concepts, D dim.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from data_pipeline.images.transform import ImageTransform
from data_pipeline.texts.tokenizer import TextTokenizer
from model.dual_encoder import DualEncoder
from pretrain.conversion.opened import open_network
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.dual_features import FeatureReader, FeatureSettings
from pretrain.evaluation.retrieval import rank_of_best, similarity
from tests.benchmarks.emoji_artists import FLAGS, EmojiArtists

CHUNK = 64
MAX_PIXELS = 1 << 20


@dataclass(frozen=True)
class Gallery:
    """The pictures of an artist, in the order of their names."""

    pictures: list[Path]
    """Pictures of all concepts, n of them."""
    names: list[str]
    """Names of all concepts."""
    is_unseen: Tensor
    """(n,) bool: concepts that are in no training."""
    is_flag: Tensor
    """(n,) bool"""
    alike: Tensor
    """(n, n) bool: concepts whose pictures are equal, each with itself."""

    def image(self, place: int, size: int) -> Tensor:
        """Return a picture, (3, size, size) uint8."""
        pixels = ImageTransform(size, 1, 0, False, MAX_PIXELS).center(self.pictures[place].read_bytes())
        return torch.from_numpy(pixels)


@dataclass(frozen=True)
class Features:
    """Features of a gallery."""

    images: Tensor
    """(n, D)"""
    texts: Tensor
    """(n, D)"""


@dataclass(frozen=True)
class Reading:
    """Recalls in 0..1 of a dual encoder; if no direction is named, the mean of both."""

    r1: float
    """(A) Seen concepts of the artist among all n."""
    r5: float
    r5_text_to_image: float
    r5_image_to_text: float
    r5_without_flags: float
    r5_same_picture: float
    """As r5, but equal pictures are right answers too."""
    r1_unseen_concepts: float
    """(B) Unseen concepts among themselves."""
    r5_unseen_concepts: float
    r5_unseen_among_all: float
    """Unseen concepts among all n."""
    chance_r5: float
    """R@5 in (A) of a random order."""
    chance_r5_unseen_concepts: float


def gallery_of(artists: EmojiArtists, artist: str, language: str, pictures: Path) -> Gallery:
    """Return all pictures of an artist, as `write_pictures` wrote them, with their names in a language."""
    concepts = artists.drawn(artist)
    codes = [concept["hexcode"] for concept in concepts]
    group = {code: number for number, codes in enumerate(artists.same_picture(artist)) for code in codes}
    # a concept with a picture of its own is a group of its own
    groups = torch.tensor([group.get(code, len(group) + place) for place, code in enumerate(codes)])
    return Gallery(
        pictures=[pictures / artist / f"{code}.png" for code in codes],
        names=[concept["labels"][language] for concept in concepts],
        is_unseen=torch.tensor([artists.is_unseen(concept) for concept in concepts]),
        is_flag=torch.tensor([concept["group"] == FLAGS for concept in concepts]),
        alike=groups[:, None] == groups,
    )


def features_of(run: Path, gallery: Gallery) -> Features:
    """Return what a run's network makes of the pictures and the names."""
    opened = open_network(run)
    network, inputs = opened.network, opened.preprocessing
    assert isinstance(network, DualEncoder)
    settings = FeatureSettings(
        image_size=inputs.image_size,
        patch_size=network.encoder.config.patch_size,
        tokenizer=TextTokenizer(opened.need_tokenizer()),
        text_length=inputs.text_length,
        chunk_size=CHUNK,
        dtype=torch.float32,
        device=torch.device("cpu"),
        mean=inputs.mean,
        std=inputs.std,
    )
    reader = FeatureReader(network, settings, Ranks())
    images = reader.of_images(_Pictures(gallery, inputs.image_size), len(gallery.pictures))
    return Features(images.rows, reader.of_texts(gallery.names).rows)


def reading_of(features: Features, gallery: Gallery) -> Reading:
    """Return the recalls of both protocols."""
    by_text = similarity(features.texts, features.images)
    itself, seen = torch.eye(len(by_text), dtype=torch.bool), ~gallery.is_unseen
    unseen, seen_without_flags = gallery.is_unseen, seen & ~gallery.is_flag
    everything = torch.ones_like(seen)

    def recalls(k: int, asked: Tensor, candidates: Tensor, right: Tensor) -> list[float]:
        """Return R@k, text to image and image to text."""
        return [
            (rank_of_best(found[asked][:, candidates], right[asked][:, candidates]) < k).double().mean().item()
            for found in (by_text, by_text.T)
        ]

    r5 = recalls(5, seen, everything, itself)
    return Reading(
        r1=mean(recalls(1, seen, everything, itself)),
        r5=mean(r5),
        r5_text_to_image=r5[0],
        r5_image_to_text=r5[1],
        r5_without_flags=mean(recalls(5, seen_without_flags, everything, itself)),
        r5_same_picture=mean(recalls(5, seen, everything, gallery.alike)),
        r1_unseen_concepts=mean(recalls(1, unseen, unseen, itself)),
        r5_unseen_concepts=mean(recalls(5, unseen, unseen, itself)),
        r5_unseen_among_all=mean(recalls(5, unseen, everything, itself)),
        chance_r5=5 / len(seen),
        chance_r5_unseen_concepts=5 / int(unseen.sum()),
    )


def mean_of(readings: Sequence[Reading]) -> Reading:
    return Reading(*map(mean, zip(*map(astuple, readings), strict=True)))


@dataclass(frozen=True)
class _Pictures:
    """The images that a FeatureReader reads."""

    gallery: Gallery
    size: int

    def images(self, places: range) -> tuple[Tensor, Tensor]:
        return torch.stack([self.gallery.image(place, self.size) for place in places]), torch.ones(len(places))
