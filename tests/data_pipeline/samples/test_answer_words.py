"""Answers in the form in which VQA's evaluation compares them."""

import pytest

from data_pipeline.samples.answer_words import normalized_answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        ("The two dogs.", "2 dogs"),
        ("none", "0"),
        ("a  red\ncar", "red car"),
        ("1,000", "1000"),  # the comma of a number
        ("1,000, or so?", "1000 or so"),
        ("yes, please", "yes please"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("2.5", "2.5"),
        ("St. John", "st john"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't ve"),  # apostrophes are punctuation, and replaced first
        ("it's", "it s"),
        ("oclock", "o'clock"),
        ("the", ""),
        ("ten", "10"),
    ],
)
def test_the_official_steps(answer: str, expected: str) -> None:
    assert normalized_answer(answer) == expected


def test_an_answer_of_the_list_stays_as_it_is() -> None:
    for answer in ("yes", "2", "red and white", "don't know", "t shirt"):
        assert normalized_answer(normalized_answer(answer)) == normalized_answer(answer)
