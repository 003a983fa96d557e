"""Annotations of tasks, and everything that can be wrong with one."""

import json

import pytest

from data_pipeline.samples.sample import PARTS, BadSampleError, Kind
from data_pipeline.samples.tasks import (
    TASK_KINDS,
    Annotation,
    CaptionAnnotation,
    ClassAnnotation,
    Nlvr2Annotation,
    VqaAnnotation,
    is_task,
    parse_annotation,
    task_of,
)


def test_every_task_has_a_kind_of_shards_with_an_annotation() -> None:
    for task, kind in TASK_KINDS.items():
        assert is_task(kind) and task_of(kind) == task and "json" in PARTS[kind]
    assert not any(is_task(kind) for kind in ("image", "pair", "text"))


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("vqa", {"question_id": 7, "answers": {"red": 1, "pink": 0.3}}, VqaAnnotation(7, {"red": 1.0, "pink": 0.3})),
        ("vqa", {"question_id": "q", "image_id": 5}, VqaAnnotation("q", None)),
        ("nlvr2", {"identifier": "dev-0-1-0", "label": 0}, Nlvr2Annotation("dev-0-1-0", 0)),
        ("nlvr2", {"identifier": 3, "label": None}, Nlvr2Annotation("3", None)),
        ("caption", {"image_id": 9, "captions": ["a", "b"]}, CaptionAnnotation(9, ("a", "b"))),
        ("caption", {"image_id": 9, "captions": []}, CaptionAnnotation(9, ())),
        ("label", {"class": "n01440764", "label": 0}, ClassAnnotation("n01440764", 0)),
    ],
)
def test_annotations(kind: Kind, content: object, expected: Annotation) -> None:
    assert parse_annotation(kind, json.dumps(content).encode()) == expected


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        ("vqa", [], ".json member is not a JSON object"),
        ("vqa", {"answers": {"red": 1}}, "'question_id' is not a number or a text"),
        ("vqa", {"question_id": True}, "'question_id' is not a number or a text"),
        ("vqa", {"question_id": 1, "answers": ["red"]}, "'answers' does not hold a score per answer"),
        ("vqa", {"question_id": 1, "answers": {}}, "'answers' does not hold a score per answer"),
        ("vqa", {"question_id": 1, "answers": {"red": 1.5}}, "score of an answer is not from 0 to 1"),
        ("vqa", {"question_id": 1, "answers": {"red": float("nan")}}, "score of an answer is not from 0 to 1"),
        ("vqa", {"question_id": 1, "answers": {"red": True}}, "score of an answer is not from 0 to 1"),
        ("nlvr2", {"identifier": "a", "label": 2}, "label is not 0, 1 or null"),
        ("nlvr2", {"identifier": "a", "label": True}, "label is not 0, 1 or null"),
        ("nlvr2", {"label": 1}, "'identifier' is not a number or a text"),
        ("caption", {"image_id": 1, "captions": "a"}, "'captions' is not a list of texts"),
        ("caption", {"image_id": 1, "captions": [" "]}, "text has no visible character"),
        ("label", {"class": "", "label": 1}, "'class' is not the name of a class"),
        ("label", {"class": "a", "label": -1}, "label is not a number from 0"),
        ("label", {"class": "a", "label": "1"}, "label is not a number from 0"),
        ("vqa", {"question_id": "\ud800"}, "'question_id' is not UTF-8"),
        ("vqa", {"question_id": 1, "answers": {"\ud800": 1}}, "'answers' is not UTF-8"),
        ("vqa", {"question_id": 1, "human_answers": ["\ud800"]}, "'human_answers' is not UTF-8"),
        ("caption", {"image_id": 1, "captions": ["a", "half \ud83d"]}, "'captions' is not UTF-8"),
        ("label", {"class": "\ud800", "label": 1}, "'class' is not UTF-8"),
    ],
)
def test_each_wrong_annotation_is_named(kind: Kind, content: object, problem: str) -> None:
    with pytest.raises(BadSampleError) as error:
        parse_annotation(kind, json.dumps(content).encode())
    assert error.value.reason == problem


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_member_that_is_not_json_is_a_bad_sample(content: bytes) -> None:
    with pytest.raises(BadSampleError, match=r"\.json member is not valid JSON"):
        parse_annotation("vqa", content)
