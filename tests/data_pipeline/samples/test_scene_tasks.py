"""Tasks on drawn scenes: reproducible, and with nothing to gain without both the images and the text."""

import io
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from data_pipeline.samples.sample import PARTS, Kind
from data_pipeline.samples.scene_tasks import LABELS, draw_task_samples
from data_pipeline.samples.scenes import COLORS, PLACES, SHAPES, SIZES
from data_pipeline.samples.tasks import checked_annotation

KINDS: tuple[Kind, ...] = ("vqa", "nlvr2", "caption", "label")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_the_parts_of_its_kind_and_is_a_function_of_its_number(kind: Kind) -> None:
    drawn = list(draw_task_samples(kind, 6, seed=5))
    assert drawn == list(draw_task_samples(kind, 6, seed=5)) != list(draw_task_samples(kind, 6, seed=6))
    for sample in drawn:
        has = {"image": sample.image, "image2": sample.image2, "text": sample.text, "json": sample.metadata}
        assert {part for part, value in has.items() if value} == set(PARTS[kind])
        checked_annotation(kind, sample.metadata)
    assert not {s.image for s in drawn} & {s.image for s in draw_task_samples(kind, 6, seed=5, split="held_out")}


def test_statements_are_true_half_of_the_time_whatever_they_say() -> None:
    labels = defaultdict[str | None, Counter[int]](Counter)
    samples = list(draw_task_samples("nlvr2", 600))
    for sample in samples:
        words = (sample.text or "").split()
        for word in {*COLORS, *SHAPES, *SIZES, *PLACES}.intersection(words):
            labels[word][sample.metadata["label"]] += 1
    assert len(labels) == len(COLORS) + len(SHAPES) + len(SIZES) + len(PLACES)
    for counts in labels.values():
        assert 0.3 < counts[1] / counts.total() < 0.7
    assert len({sample.text for sample in samples}) > 400


def test_a_true_statement_is_the_caption_of_the_left_picture_and_a_false_one_of_the_right() -> None:
    """The color that a statement names fills more of that picture."""
    for sample in draw_task_samples("nlvr2", 60):
        words = (sample.text or "").split()
        (color,) = [COLORS[word] for word in words if word in COLORS]
        assert sample.image is not None and sample.image2 is not None
        shares = [share_of(color, image) for image in (sample.image, sample.image2)]
        said, other = shares if sample.metadata["label"] else shares[::-1]
        assert said > 0.02 and (said > other or other > 0.02)  # both may have the color


def share_of(color: tuple[int, int, int], image: bytes) -> float:
    """Return the share of the pixels of about that color."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.int64)
    return float((abs(pixels - np.array(color)).max(-1) < 40).mean())


def test_answers_and_classes_are_in_their_lists_and_varied() -> None:
    answers = Counter(next(iter(s.metadata["answers"])) for s in draw_task_samples("vqa", 300))
    assert set(answers) <= set(LABELS["vqa"]) and len(answers) > 15 and max(answers.values()) < 75
    classes = Counter(s.metadata["class"] for s in draw_task_samples("label", 300))
    assert set(classes) <= set(LABELS["label"]) and len(classes) > 25
