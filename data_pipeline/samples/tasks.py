"""The annotation of a sample of a task: the .json member that says what the right output is.

| task       | kind of shards | parts                  | .json member                                              |
| ---------- | -------------- | ---------------------- | --------------------------------------------------------- |
| `vqa`      | `vqa`          | image, question        | `{"question_id": 7, "answers": {"red": 1.0, "pink": 0.3}}`  |
| `nlvr2`    | `nlvr2`        | two images, statement  | `{"identifier": "dev-0-1-0", "label": 1}`                 |
| `caption`  | `caption`      | image                  | `{"image_id": 9, "captions": ["a cat", "a cat sleeps"]}`    |
| `classify` | `label`        | image                  | `{"class": "n01440764", "label": 0}`                      |

Samples of a test split lack answers or captions, and their label is null. Other fields are kept and ignored.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from data_pipeline.samples.sample import BadSampleError, Kind, check_text, is_utf8

Task = Literal["vqa", "nlvr2", "caption", "classify"]
"""A finetuning task. Retrieval is finetuned by the contrastive stage, on shards of kind pair or caption."""
TASK_KINDS: dict[Task, Kind] = {"vqa": "vqa", "nlvr2": "nlvr2", "caption": "caption", "classify": "label"}
"""The kind of shards that each task is trained on."""
Identifier = int | str


@dataclass(frozen=True)
class VqaAnnotation:
    """Answers to a question."""

    question_id: Identifier
    answers: dict[str, float] | None
    """Score of each answer, from 0 to 1; None for a question of a test split."""
    human_answers: tuple[str, ...] = ()
    """Answers of the people who were asked, as they gave them, from which an evaluation computes VQA's accuracy; empty
    if only scores are known."""


@dataclass(frozen=True)
class Nlvr2Annotation:
    """Whether a statement about two images is true."""

    identifier: str
    label: int | None
    """1 if it is true, 0 if it is false; None for a statement of a test split."""


@dataclass(frozen=True)
class CaptionAnnotation:
    """All captions of an image."""

    image_id: Identifier
    captions: tuple[str, ...]
    """Empty for an image of a test split."""


@dataclass(frozen=True)
class ClassAnnotation:
    """Class of an image."""

    name: str
    label: int
    """Place of the class in the class list that the shards were written with."""


Annotation = VqaAnnotation | Nlvr2Annotation | CaptionAnnotation | ClassAnnotation


def is_task(kind: Kind) -> bool:
    """Return whether shards of a kind are those of a task."""
    return kind in TASK_KINDS.values()


def task_of(kind: Kind) -> Task:
    """Return the task whose shards are of a kind."""
    return next(task for task, its_kind in TASK_KINDS.items() if its_kind == kind)


def parse_annotation(kind: Kind, content: bytes) -> Annotation:
    """Return the annotation in the .json member of a sample of a task. Raises BadSampleError if it is not sound."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f".json member is not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadSampleError(".json member is not a JSON object")
    return checked_annotation(kind, fields)


def checked_annotation(kind: Kind, fields: dict[str, Any]) -> Annotation:
    """Return the annotation in the fields of a JSON object. Raises BadSampleError if one is missing or wrong."""
    if kind == "vqa":
        return VqaAnnotation(
            _identifier(fields, "question_id"), _answers(fields.get("answers")), _texts(fields, "human_answers")
        )
    if kind == "nlvr2":
        return Nlvr2Annotation(str(_identifier(fields, "identifier")), _truth(fields.get("label")))
    if kind == "caption":
        return CaptionAnnotation(_identifier(fields, "image_id"), _captions(fields))
    assert kind == "label", kind
    name, label = fields.get("class"), fields.get("label")
    if not isinstance(name, str) or not name:
        raise BadSampleError(f"'class' is not the name of a class ({name!r:.60})")
    _check_utf8("class", name)
    if not isinstance(label, int) or isinstance(label, bool) or label < 0:
        raise BadSampleError(f"label is not a number from 0 ({label!r:.60})")
    return ClassAnnotation(name, label)


def _identifier(fields: dict[str, Any], name: str) -> Identifier:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, Identifier):
        raise BadSampleError(f"{name!r} is not a number or a text ({value!r:.60})")
    _check_utf8(name, str(value))
    return value


def _answers(answers: Any) -> dict[str, float] | None:
    if answers is None:
        return None
    if not isinstance(answers, dict) or not answers:
        raise BadSampleError(f"'answers' does not hold a score per answer ({answers!r:.60})")
    for answer, score in answers.items():
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if not is_number or not math.isfinite(score) or not 0 <= score <= 1:
            raise BadSampleError(f"score of an answer is not from 0 to 1 ({answer!r:.60}: {score!r:.60})")
    _check_utf8("answers", *answers)
    return {answer: float(score) for answer, score in answers.items()}


def _truth(label: Any) -> int | None:
    if label is not None and (isinstance(label, bool) or label not in (0, 1)):
        raise BadSampleError(f"label is not 0, 1 or null ({label!r:.60})")
    return None if label is None else int(label)


def _captions(fields: dict[str, Any]) -> tuple[str, ...]:
    captions = _texts(fields, "captions")
    for caption in captions:
        check_text(caption)
    return captions


def _texts(fields: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = fields.get(name) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadSampleError(f"{name!r} is not a list of texts ({texts!r:.60})")
    _check_utf8(name, *texts)
    return tuple(texts)


def _check_utf8(name: str, *texts: str) -> None:
    """Raise BadSampleError for a text with half of a surrogate pair, which JSON can hold and no tokenizer takes."""
    for text in texts:
        if not is_utf8(text):
            raise BadSampleError(f"{name!r} is not UTF-8 ({text!r:.60})")
