"""Answers to questions on images: the official normalization of VQA, and how right an answer is.

Ten people answered each question. An answer counts by how many of them gave it: for each person, as a third of the
other nine that agree, at most 1; the accuracy is the mean over the ten. So an answer that 1, 2, 3 or at least 4 of ten
gave has the accuracy 0.3, 0.6, 0.9 or 1, which are also the targets of training. With one answer per question, as in
GQA, there are no others: it is right or wrong.

Source: Antol et al., "VQA: Visual Question Answering" (arXiv 1505.00468), and the evaluation code of visualqa.org,
vqaEval.py, whose every step is kept, the odd ones too: they decide which answers are equal.
"""

import re
from collections import Counter
from collections.abc import Sequence

NEEDED = 3
"""Number of other people who gave an answer that is right."""
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {"none": "0"} | {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
}
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()


def _missing_one(word: str) -> list[str]:
    """Return a word without its first apostrophe, without its second, and so on."""
    return [word[:place] + word[place + 1 :] for place, character in enumerate(word) if character == "'"]


_CONTRACTIONS = {wrong: word for word in _CONTRACTED for wrong in _missing_one(word)} | {"somebody'd": "somebodyd"}


def normalized_answer(answer: str) -> str:
    """Return an answer in lower case, without articles and punctuation, with digits for zero to ten."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    has_number_with_comma = re.search(r"\d,\d", answer) is not None
    cleaned = answer
    for mark in _PUNCTUATION:
        is_beside_space = f"{mark} " in answer or f" {mark}" in answer
        cleaned = cleaned.replace(mark, "" if is_beside_space or has_number_with_comma else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned)
    words = [_NUMBERS.get(word, word) for word in cleaned.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


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
