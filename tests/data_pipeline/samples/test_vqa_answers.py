"""The accuracy of answers by its definition."""

from itertools import combinations

import pytest

from data_pipeline.samples.vqa_answers import answer_accuracy, answer_scores


def by_definition(guess: str, answers: list[str]) -> float:
    """Return the mean over all choices of nine of the ten people."""
    parts = [min(1, chosen.count(guess) / 3) for chosen in combinations(answers, len(answers) - 1)]
    return sum(parts) / len(parts)


@pytest.mark.parametrize("num_same", range(11))
def test_accuracy_is_the_mean_over_all_choices_of_nine_people(num_same: int) -> None:
    answers = ["cat"] * num_same + ["dog"] * (10 - num_same)
    assert answer_accuracy("cat", answers) == pytest.approx(by_definition("cat", answers))
    assert answer_accuracy("the cat.", answers) == pytest.approx(
        answer_accuracy("cat", answers) if num_same < 10 else 0.0  # if all agree, the official code compares as written
    )


def test_scores_of_answers_are_the_targets_of_training() -> None:
    answers = ["Cat", "cat", "a cat", "cat", "two cats", "2 cats", "2 cats.", "dog", "lion", "lion"]
    scores = answer_scores(answers)
    assert scores == pytest.approx({"cat": 1.0, "2 cats": 0.9, "lion": 0.6, "dog": 0.3})
    assert all(answer_accuracy(answer, answers) == pytest.approx(score) for answer, score in scores.items())


def test_an_only_answer_is_right_or_wrong() -> None:
    assert answer_scores(["circle"]) == {"circle": 1.0}
    assert answer_accuracy("circle", ["circle"]) == 1.0
    assert answer_accuracy("triangle", ["circle"]) == 0.0
