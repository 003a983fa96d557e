"""Answers to questions as VQA's evaluation compares them: without punctuation and articles, numbers as digits.

Source: github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py (processPunctuation,
processDigitArticle); Microsoft's finetuning code does the same before it counts answers (beit3/glossary.py). What looks
odd in it is kept, since published figures are computed with it.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Removed if a space is beside it or a comma is within a number, else replaced by a space; both for each mark."""
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_MAX_PERIODS = 32
"""The original passes re.UNICODE, which is 32, as the number of periods to remove."""
_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_ARTICLES = ("a", "an", "the")
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED
    for place, character in enumerate(word)
    if character == "'"
} | {"somebody'd": "somebodyd"}
"""The right form of each contraction that lacks one of its apostrophes."""


def normalized_answer(answer: str) -> str:
    """Return an answer in the form in which answers are compared: 'The two dogs.' -> '2 dogs'."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    found = text
    has_number = _NUMBER_WITH_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        is_removed = has_number or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if is_removed else " ")
    found = _PERIOD.sub("", found, count=_MAX_PERIODS)
    words = [_DIGITS.get(word, word) for word in found.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
