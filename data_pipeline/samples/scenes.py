"""A small world of drawn scenes with captions: the data of the demo and of many tests.

A scene holds one shape at a place, or two shapes in a relation, on a ground. Every pixel and word is a function of
(seed, split, kind, number). One composition in HELD_OUT_ONE_IN is held out: it occurs only in the split "held_out", and
in no image, caption or sentence of "train".
"""

import hashlib
import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from data_pipeline.samples.sample import Kind, Sample

Split = Literal["train", "held_out"]
HELD_OUT_ONE_IN = 10
ONE_SHAPE_SHARE = 0.6
IMAGE_SIZE = 96
OVERSAMPLING = 2

COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 210, 40),
    "purple": (140, 50, 170),
    "orange": (245, 130, 30),
}
GROUNDS = {"white": (240, 240, 240), "gray": (128, 128, 128), "black": (30, 30, 30)}
SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = {"big": 0.62, "small": 0.34}  # of the image's side
PLACES = {
    "left": (0.3, 0.5),
    "right": (0.7, 0.5),
    "top": (0.5, 0.3),
    "bottom": (0.5, 0.7),
    "center": (0.5, 0.5),
}
RELATIONS = {
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
}
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
PAIRED_SIZE = 0.44

ONE_SHAPE_PHRASES = (
    "a {size} {color} {shape} at the {place} on {ground}",
    "on {ground} there is a {size} {color} {shape} at the {place}",
    "at the {place} of a {ground} picture a {color} {shape} which is {size}",
)
TWO_SHAPES_PHRASES = (
    "a {color} {shape} {relation} a {other_color} {other_shape} on {ground}",
    "on {ground} the {color} {shape} is {relation} the {other_color} {other_shape}",
    "there is a {other_color} {other_shape} on {ground} and a {color} {shape} {relation} it",
)


@dataclass(frozen=True)
class Figure:
    """A colored shape. Center and diameter are fractions of the image's side."""

    color: str
    shape: str
    center: tuple[float, float]
    diameter: float


@dataclass(frozen=True)
class Scene:
    """A scene to draw, and the words for it."""

    ground: str
    figures: tuple[Figure, ...]
    words: dict[str, str]
    """Values of the fields in the phrases."""
    composition: tuple[str, ...]
    """Equal for scenes of the same composition, whichever way the relation is phrased."""

    @property
    def is_held_out(self) -> bool:
        digest = hashlib.sha256(" ".join(self.composition).encode()).digest()
        return digest[0] * 256 + digest[1] < 65536 // HELD_OUT_ONE_IN

    def caption(self, rng: random.Random) -> str:
        phrases = ONE_SHAPE_PHRASES if len(self.figures) == 1 else TWO_SHAPES_PHRASES
        return rng.choice(phrases).format(**self.words).replace("a orange", "an orange")


def draw_samples(kind: Kind, count: int, seed: int = 0, split: Split = "train") -> Iterator[Sample]:
    """Yield `count` samples; for kind "text" a sample is one sentence."""
    for number in range(count):
        rng = random.Random(f"{seed} {split} {kind} {number}")
        scene = random_scene(rng, split)
        yield Sample(
            key=f"{split}_{kind}_{number:07d}",
            image=None if kind == "text" else render(scene, rng),
            text=None if kind == "image" else scene.caption(rng),
            metadata={"composition": " ".join(scene.composition)},
        )


def random_scene(rng: random.Random, split: Split) -> Scene:
    """Draw a scene whose composition belongs to the split."""
    while True:
        scene = _one_shape(rng) if rng.random() < ONE_SHAPE_SHARE else _two_shapes(rng)
        if scene.is_held_out == (split == "held_out"):
            return scene


def _one_shape(rng: random.Random) -> Scene:
    color, shape, size = rng.choice(list(COLORS)), rng.choice(SHAPES), rng.choice(list(SIZES))
    place, ground = rng.choice(list(PLACES)), rng.choice(list(GROUNDS))
    return Scene(
        ground=ground,
        figures=(Figure(color, shape, PLACES[place], SIZES[size]),),
        words={"color": color, "shape": shape, "size": size, "place": place, "ground": ground},
        composition=(size, color, shape, place, ground),
    )


def _two_shapes(rng: random.Random) -> Scene:
    color, other_color = rng.sample(list(COLORS), 2)
    shape, other_shape = rng.choice(SHAPES), rng.choice(SHAPES)
    relation, ground = rng.choice(list(RELATIONS)), rng.choice(list(GROUNDS))
    first, second = RELATIONS[relation]
    said = (color, shape, relation, other_color, other_shape)
    said_the_other_way = (other_color, other_shape, OPPOSITE[relation], color, shape)
    return Scene(
        ground=ground,
        figures=(Figure(color, shape, first, PAIRED_SIZE), Figure(other_color, other_shape, second, PAIRED_SIZE)),
        words={
            "color": color,
            "shape": shape,
            "relation": relation,
            "other_color": other_color,
            "other_shape": other_shape,
            "ground": ground,
        },
        composition=min(said, said_the_other_way),
    )


def render(scene: Scene, rng: random.Random) -> bytes:
    """Return the scene as a PNG of IMAGE_SIZE x IMAGE_SIZE pixels, with size, place, color and ground jittered."""
    side = IMAGE_SIZE * OVERSAMPLING
    image = _ground(scene.ground, rng).resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for figure in scene.figures:
        x = side * (figure.center[0] + rng.uniform(-0.05, 0.05))
        y = side * (figure.center[1] + rng.uniform(-0.05, 0.05))
        radius = side * figure.diameter * rng.uniform(0.85, 1.15) / 2
        color = tuple(min(255, max(0, value + rng.randint(-18, 18))) for value in COLORS[figure.color])
        if figure.shape == "circle":
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
        else:
            draw.polygon([(x + radius * u, y + radius * v) for u, v in _outline(figure.shape)], fill=color)
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def _ground(ground: str, rng: random.Random) -> Image.Image:
    """Return a gradient around the ground's gray in a random direction, IMAGE_SIZE / 4 pixels per side."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 16)
    ramp = np.linspace(-1, 1, IMAGE_SIZE // 4)
    slope = strength * (np.cos(angle) * ramp[None, :, None] + np.sin(angle) * ramp[:, None, None])
    pixels = np.array(GROUNDS[ground]) + rng.uniform(-8, 8) + slope
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _outline(shape: str) -> list[tuple[float, float]]:
    """Return the corners of a shape inside the unit circle."""
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    if shape == "triangle":
        return [(0, -1), (0.95, 0.75), (-0.95, 0.75)]
    if shape == "cross":
        arm = 0.32
        corners = [(arm, 1), (arm, arm), (1, arm)]
        quarter = [(1, -arm), (arm, -arm), (arm, -1)]
        return corners + quarter + [(-x, -y) for x, y in corners] + [(-x, -y) for x, y in quarter]
    if shape == "star":
        turns = [math.pi * i / 5 for i in range(10)]
        return [
            (radius * math.sin(turn), -radius * math.cos(turn))
            for turn, radius in zip(turns, [1.05, 0.42] * 5, strict=True)
        ]
    raise ValueError(f"shape {shape!r} has no outline; use one of {SHAPES}")
