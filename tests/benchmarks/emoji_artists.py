"""One set of concepts, drawn by several artists and named in many languages, as sources of pairs and texts.

The pictures have a transparent ground, on which the reader of shards would put white, and white drawings would be gone:
they are cut to what is drawn and put on gray. Captions are a concept's name, alone and with some of its keywords.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

GRAY = (176, 176, 176)
SIDE = 72
"""Side of a prepared picture in pixels, unless another one is asked for."""
MARGIN = 1.06
"""Side of a prepared picture divided by the longer side of what is drawn."""
MOST_TAGS = 4
"""Most keywords of a caption."""
FLAGS = "flags"
"""Group of concepts that few artists draw, and whose captions say little about the picture."""


@dataclass(frozen=True)
class EmojiArtists:
    """A folder with concepts.jsonl, split.json and pictures as ARTIST/HEXCODE.webp."""

    folder: Path
    every: int = 1
    """Only one concept in `every` is used."""

    @cached_property
    def concepts(self) -> list[dict[str, Any]]:
        """All concepts: hexcode, group, labels {language: name} and tags {language: [keyword]}."""
        lines = (self.folder / "concepts.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines[:: self.every]]

    @cached_property
    def split(self) -> dict[str, Any]:
        """Training artists, unseen concepts, concepts with the same picture, artists with the same drawings."""
        found: dict[str, Any] = json.loads((self.folder / "split.json").read_text())
        return found

    def picture(self, artist: str, concept: dict[str, Any]) -> Path:
        """Return the path of a picture; not every artist draws every concept."""
        return self.folder / artist / f"{concept['hexcode']}.webp"

    def drawn(self, artist: str) -> list[dict[str, Any]]:
        """Return the concepts that an artist draws, in their order."""
        return [concept for concept in self.concepts if self.picture(artist, concept).is_file()]

    def is_unseen(self, concept: dict[str, Any]) -> bool:
        """Return whether a concept is held out of all training."""
        return concept["hexcode"] in self._unseen

    def training_artists(self, held_out: str) -> list[str]:
        """Return all artists but one and those who have the same drawings in another finish."""
        alike = {held_out}.union(*(artists for artists in self.split["same_drawings"] if held_out in artists))
        return sorted(set(self.split["training_artists"]) - alike)

    def same_picture(self, artist: str) -> list[list[str]]:
        """Return groups of hexcodes that an artist draws with equal pixels."""
        found: list[list[str]] = self.split["same_picture"].get(artist, [])
        return found

    @cached_property
    def _unseen(self) -> frozenset[str]:
        return frozenset(self.split["unseen_concepts"])


def captions(concept: dict[str, Any], languages: Sequence[str]) -> list[str]:
    """Return two captions per language: the name, and the name with some keywords, the same in every call."""
    found = []
    for language in languages:
        name = concept["labels"][language]
        tags = [tag for tag in concept["tags"].get(language, []) if tag != name]
        draw = random.Random(int(hashlib.sha256(f"{concept['hexcode']} {language}".encode()).hexdigest()[:8], 16))
        found += [name, f"{name}: {', '.join(draw.sample(tags, min(MOST_TAGS, len(tags))))}" if tags else name]
    return found


def text(concept: dict[str, Any], language: str) -> str:
    """Return the name with all keywords, a line of text."""
    return f"{concept['labels'][language]}: {', '.join(concept['tags'].get(language, []))}."


def write_pictures(
    artists: EmojiArtists, names: Iterable[str], out: Path, pool: Executor, side: int = SIDE, compress_level: int = 6
) -> None:
    """Write the prepared pictures of some artists, as OUT/ARTIST/HEXCODE.png; those that are there stay.

    side: of a picture in pixels; compress_level: of PNG, 0 to 9, of which 0 is read fastest.
    """
    todo = []
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)
        todo += [
            (artists.picture(name, concept), path, side, compress_level)
            for concept in artists.drawn(name)
            if not (path := out / name / f"{concept['hexcode']}.png").is_file()
        ]
    for _ in pool.map(_write_picture, *zip(*todo, strict=True), chunksize=100) if todo else ():
        pass


def _write_picture(source: Path, out: Path, side: int, compress_level: int) -> None:
    partial = out.with_suffix(".partial")
    prepared(Image.open(source), side).save(partial, "png", compress_level=compress_level)
    partial.rename(out)


def prepared(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """Return what is drawn in a picture, in the middle of a gray square of `side` pixels."""
    picture = picture.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    full = round(max(picture.size) * MARGIN)
    ground = Image.new("RGBA", (full, full), (*GRAY, 255))
    ground.alpha_composite(picture, ((full - picture.width) // 2, (full - picture.height) // 2))
    return ground.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
