"""How right an answer to a question is, by those of ten people: the accuracy of VQA.

Ten people answered each question. An answer counts by how many of them gave it: for each person, as a third of the
other nine that agree, at most 1; the accuracy is the mean over the ten. So an answer that 1, 2, 3 or at least 4 of ten
gave has the accuracy 0.3, 0.6, 0.9 or 1, which are also the targets of training. With one answer per question, as in
GQA, there are no others: it is right or wrong.

Source: Antol et al., "VQA: Visual Question Answering" (arXiv 1505.00468), and the evaluation code of visualqa.org,
vqaEval.py. Answers are compared as answer_words.py has them.
"""

from collections import Counter
from collections.abc import Sequence

from data_pipeline.samples.answer_words import normalized_answer

NEEDED = 3
"""Number of other people who gave an answer that is right."""


def answer_accuracy(guess: str, human_answers: Sequence[str]) -> float:
    """Return how right a guess is, in [0, 1].

    As in the official code nothing is normalized if all people gave the same answer.
    """
    answers, guess = [_trimmed(answer) for answer in human_answers], _trimmed(guess)
    if len(set(answers)) > 1:
        answers, guess = [normalized_answer(answer) for answer in answers], normalized_answer(guess)
    return _accuracy(answers.count(guess), len(answers))


def answer_scores(human_answers: Sequence[str]) -> dict[str, float]:
    """Return the accuracy of each answer that somebody gave, by the answer, normalized; the likeliest first."""
    counts = Counter(normalized_answer(answer) for answer in human_answers)
    return {answer: _accuracy(count, len(human_answers)) for answer, count in counts.most_common()}


def _trimmed(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _accuracy(num_same: int, num_people: int) -> float:
    """Return the mean over all people of the share of NEEDED others that gave the same answer, at most 1."""
    if num_people == 1:
        return float(num_same)
    of_those = min(1, max(num_same - 1, 0) / NEEDED)
    of_others = min(1, num_same / NEEDED)
    return (num_same * of_those + (num_people - num_same) * of_others) / num_people
