"""Shards of every task on drawn scenes: samples that only a network can solve that sees the image and reads the text.

| task     | sample                                                                                     |
| -------- | ------------------------------------------------------------------------------------------ |
| vqa      | one shape; "what color is it", "what shape is it", "how big is it" or "where is it"         |
| nlvr2    | two pictures of one shape each; "the shapes have the same color", "... different colors"    |
| caption  | a scene and two captions of it                                                             |
| classify | one shape; its color is the class                                                          |
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.index_shards import IndexOptions, index_shards
from data_pipeline.samples.answers import ANSWERS_NAME, CLASSES_NAME, answer_lines, class_lines
from data_pipeline.samples.scenes import COLORS, PLACES, SHAPES, SIZES, Scene, Split, random_scene, render
from data_pipeline.samples.tasks import TASK_KINDS, Task
from tests.support.shard_files import Member, write_tar

QUESTIONS = {
    "color": "what color is it",
    "shape": "what shape is it",
    "size": "how big is it",
    "place": "where is it",
}
ANSWERS = sorted([*COLORS, *SHAPES, *SIZES, *PLACES])
CLASSES = sorted(COLORS)
SAME, DIFFERENT = "the shapes have the same color", "the shapes have different colors"


def write_task_shards(folder: Path, task: Task, count: int, split: Split = "train", per_shard: int = 50) -> Path:
    """Write samples of a task into a new folder, with the list of its labels; return the folder."""
    rng = random.Random(f"{task} {split}")
    samples = [members(task, f"{split}_{number:05d}", rng, split) for number in range(count)]
    folder.mkdir(parents=True)
    for first in range(0, count, per_shard):
        part = [member for sample in samples[first : first + per_shard] for member in sample]
        write_tar(folder / f"{first:05d}.tar", part)
    if task == "vqa":
        (folder / ANSWERS_NAME).write_text(answer_lines(ANSWERS))
    if task == "classify":
        (folder / CLASSES_NAME).write_text(class_lines(CLASSES))
    index_shards(IndexOptions(TASK_KINDS[task], str(folder), num_workers=1))
    return folder


def members(task: Task, key: str, rng: random.Random, split: Split) -> list[Member]:
    """Return the files of one sample."""
    if task == "caption":
        scene = random_scene(rng, split)
        captions = [scene.caption(rng), scene.caption(rng)]
        return [(f"{key}.png", render(scene, rng)), _json(key, {"image_id": key, "captions": captions})]
    scene = next(one_shape(rng, split))
    found: list[Member] = [(f"{key}.png", render(scene, rng))]
    if task == "classify":
        color = scene.words["color"]
        return [*found, _json(key, {"class": color, "label": CLASSES.index(color)})]
    if task == "vqa":
        asked = rng.choice(list(QUESTIONS))
        question = (f"{key}.txt", QUESTIONS[asked].encode())
        return [*found, question, _json(key, {"question_id": key, "answers": {scene.words[asked]: 1.0}})]
    is_same, is_said_same = rng.random() < 0.5, rng.random() < 0.5
    color = scene.words["color"]
    other = next(one for one in one_shape(rng, split) if (one.words["color"] == color) == is_same)
    sentence = SAME if is_said_same else DIFFERENT
    label = {"identifier": key, "label": int(is_same == is_said_same)}
    return [*found, (f"{key}.image2.png", render(other, rng)), (f"{key}.txt", sentence.encode()), _json(key, label)]


def one_shape(rng: random.Random, split: Split) -> Iterator[Scene]:
    """Yield random scenes of one shape."""
    while True:
        scene = random_scene(rng, split)
        if len(scene.figures) == 1:
            yield scene


def _json(key: str, content: dict[str, object]) -> Member:
    return f"{key}.json", json.dumps(content).encode()
