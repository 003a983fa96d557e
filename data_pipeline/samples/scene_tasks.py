"""Tasks on drawn scenes, which only a network that sees the images and reads the texts can solve.

| kind    | sample                                                                                          |
| ------- | ----------------------------------------------------------------------------------------------- |
| vqa     | one shape, and a question about its color, shape, size or place                                  |
| nlvr2   | two pictures of one shape each, and a caption: true of the left picture, or of the right one     |
| caption | a scene with two different captions                                                             |
| label   | one shape; the class is its color and shape                                                     |

Half of the statements are true: the caption is that of the left picture. Neither the text nor the pictures alone tell.
"""

import random
from collections.abc import Iterator

from data_pipeline.samples.sample import Kind, Sample
from data_pipeline.samples.scenes import COLORS, PLACES, SHAPES, SIZES, Scene, Split, random_scene, render

QUESTIONS = {
    "color": ("what color is it", "which color does the {shape} have"),
    "shape": ("what shape is it", "which shape is {color}"),
    "size": ("is it big or small", "how big is the {color} {shape}"),
    "place": ("where is it", "at which place is the {color} {shape}"),
}
"""Questions by the word of the scene that answers them."""
LABELS: dict[Kind, list[str]] = {
    "vqa": sorted([*COLORS, *SHAPES, *SIZES, *PLACES]),
    "label": sorted(f"{color} {shape}" for color in COLORS for shape in SHAPES),
}
"""The answers and the classes, in the order of their labels."""


def draw_task_samples(kind: Kind, count: int, seed: int = 0, split: Split = "train") -> Iterator[Sample]:
    """Yield `count` samples of a kind of task: a function of (seed, split, kind, number)."""
    draw = {"vqa": _question, "nlvr2": _statement, "caption": _captions, "label": _class}[kind]
    for number in range(count):
        rng = random.Random(f"{seed} {split} {kind} {number}")
        yield draw(f"{split}_{kind}_{number:07d}", rng, split)


def _question(key: str, rng: random.Random, split: Split) -> Sample:
    scene = _one_shape(rng, split)
    asked = rng.choice(list(QUESTIONS))
    question = rng.choice(QUESTIONS[asked]).format(**scene.words)
    return Sample(key, render(scene, rng), question, {"question_id": key, "answers": {scene.words[asked]: 1.0}})


def _statement(key: str, rng: random.Random, split: Split) -> Sample:
    left = right = _one_shape(rng, split)
    while right.composition == left.composition:  # a caption would be true of both
        right = _one_shape(rng, split)
    label = int(rng.random() < 0.5)
    statement = (left if label else right).caption(rng)
    images = render(left, rng), render(right, rng)
    return Sample(key, images[0], statement, {"identifier": key, "label": label}, image2=images[1])


def _captions(key: str, rng: random.Random, split: Split) -> Sample:
    scene = random_scene(rng, split)
    captions = [scene.caption(rng)]
    while len(captions) < 2:
        caption = scene.caption(rng)
        captions += [caption] if caption not in captions else []
    return Sample(key, render(scene, rng), metadata={"image_id": key, "captions": captions})


def _class(key: str, rng: random.Random, split: Split) -> Sample:
    scene = _one_shape(rng, split)
    name = f"{scene.words['color']} {scene.words['shape']}"
    return Sample(key, render(scene, rng), metadata={"class": name, "label": LABELS["label"].index(name)})


def _one_shape(rng: random.Random, split: Split) -> Scene:
    """Draw a scene of one shape whose composition belongs to the split."""
    while len((scene := random_scene(rng, split)).figures) != 1:
        pass
    return scene
