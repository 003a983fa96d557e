"""The questions of easy-VQA, from the package easy-vqa 1.0: drawings of one shape, 64 px, by Victor Zhou (MIT)."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Side = Literal["train", "test"]
SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass(frozen=True)
class Question:
    """A question on an image, with its only answer."""

    image: Path
    text: str
    answer: str

    @property
    def describes(self) -> bool:
        """Whether the words say something of the image: "what color is the circle?" does, "is there a circle?" not."""
        words = self.text.rstrip("?").split()
        return words[0] == "what" and not {*SHAPES, *COLORS}.isdisjoint(words)

    def line(self, number: int) -> str:
        """Return the question as a JSON line that data_pipeline.write_shards reads as kind vqa, and as kind pair."""
        fields = {"image": str(self.image), "question": self.text, "answer": self.answer, "question_id": number}
        return json.dumps(fields) + "\n"


def read_questions(side: Side, every: int = 1) -> list[Question]:
    """Return the questions of one side in a fixed random order, in which a run reads shards.

    every: only each `every`-th image is taken, with its questions. Needs the package easy-vqa.
    """
    import easy_vqa

    questions, paths = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }[side]
    images = {number: Path(path).resolve() for number, path in paths().items()}
    found = [
        Question(images[number], text, answer)
        for text, answer, number in zip(*questions(), strict=True)
        if number % every == 0
    ]
    random.Random(0).shuffle(found)
    return found


def accuracy_without_image(train: Sequence[Question], test: Sequence[Question]) -> float:
    """Return the share of the test questions that their commonest answer in training is right for.

    A question that training does not have counts as wrong. Of answers that are equally common the first is taken.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        answers[question.text][question.answer] += 1
    commonest = {text: counts.most_common(1)[0][0] for text, counts in answers.items()}
    return sum(commonest.get(question.text) == question.answer for question in test) / len(test)
