"""Questions of easy-VQA as the study reads them, and what they give without an image; no package, no run."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.easy_vqa_questions import Question, accuracy_without_image, read_questions
from tests.benchmarks.easy_vqa_runs import NUM_PIECES, recipe

IMAGE = Path("/data/0.png")


def asked(*answers: str, text: str = "what color is the shape?") -> list[Question]:
    return [Question(IMAGE, text, answer) for answer in answers]


def test_without_an_image_a_question_gets_its_commonest_answer_in_training() -> None:
    train = [*asked("red", "red", "blue"), *asked("yes", "no", "no", text="is there a circle?")]
    test = [*asked("red", "blue", "blue"), *asked("no", text="is there a circle?"), *asked("no", text="is it new?")]
    assert accuracy_without_image(train, test) == 2 / 5


def test_one_image_in_so_many_is_taken_with_all_its_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"question {number}?" for number in range(12)]
    answers = ["yes", "no"] * 6
    images = [number // 3 for number in range(12)]
    package: Any = SimpleNamespace(
        get_train_questions=lambda: (texts, answers, images),
        get_train_image_paths=lambda: {number: f"/data/{number}.png" for number in range(4)},
        get_test_questions=lambda: ([], [], []),
        get_test_image_paths=dict,
    )
    monkeypatch.setitem(sys.modules, "easy_vqa", package)
    everything = read_questions("train")
    assert everything == read_questions("train") and [question.text for question in everything] != texts
    assert sorted((question.text, question.answer) for question in everything) == sorted(
        zip(texts, answers, strict=True)
    )
    some = read_questions("train", every=2)
    assert {question.image.name for question in some} == {"0.png", "2.png"} and len(some) == 6
    assert json.loads(some[0].line(7)) == {
        "image": str(some[0].image),
        "question": some[0].text,
        "answer": some[0].answer,
        "question_id": 7,
    }


@pytest.mark.parametrize(
    ("text", "says_something"),
    [
        ("what color is the circle?", True),
        ("what is the red shape?", True),
        ("what shape is present?", False),
        ("is there a circle?", False),
        ("does the image not contain a red shape?", False),
    ],
)
def test_a_question_describes_its_image_if_it_takes_a_shape_or_a_color_for_granted(
    text: str, says_something: bool
) -> None:
    assert Question(IMAGE, text, "circle").describes == says_something


def test_the_recipe_has_the_words_of_the_study_and_is_evaluated_after_every_epoch() -> None:
    config = recipe()
    assert config.model.vocab_size == NUM_PIECES + 2
    assert config.num_steps % config.evaluation.every_steps == 0
    assert config.evaluation.num_samples >= 9673
