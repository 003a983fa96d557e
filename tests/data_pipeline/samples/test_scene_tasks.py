"""Tasks on drawn scenes: reproducible, and with nothing to gain without both the images and the text."""

from collections import Counter, defaultdict

import pytest

from data_pipeline.samples.sample import PARTS, Kind
from data_pipeline.samples.scene_tasks import LABELS, draw_task_samples
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
    for sample in draw_task_samples("nlvr2", 600):
        labels[sample.text][sample.metadata["label"]] += 1
    assert len(labels) == 6
    for counts in labels.values():
        assert 0.3 < counts[1] / counts.total() < 0.7


def test_answers_and_classes_are_in_their_lists_and_varied() -> None:
    answers = Counter(next(iter(s.metadata["answers"])) for s in draw_task_samples("vqa", 300))
    assert set(answers) <= set(LABELS["vqa"]) and len(answers) > 15 and max(answers.values()) < 75
    classes = Counter(s.metadata["class"] for s in draw_task_samples("label", 300))
    assert set(classes) <= set(LABELS["label"]) and len(classes) > 25
