"""A bounded, evenly drawn sample of the sentences of texts, to train a text tokenizer on.

SentencePiece holds its training text in memory, about twenty bytes per byte of text: a large source would not fit.
source would not fit.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*\n\s*")
MAX_SENTENCE_CHARACTERS = 1000
SHORT_PART = re.compile(rf".{{1,{MAX_SENTENCE_CHARACTERS}}}(?!\S)|\S{{1,{MAX_SENTENCE_CHARACTERS}}}")
"""Matches whole words of a sentence: SentencePiece silently skips sentences of more than 4192 bytes."""


def sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of texts, each of at most MAX_SENTENCE_CHARACTERS; longer ones are cut between words."""
    for text in texts:
        for sentence in SENTENCE_END.split(text):
            yield from SHORT_PART.findall(sentence)


@dataclass(frozen=True)
class SentenceSample:
    """Sentences drawn from texts, in their order."""

    sentences: list[str]
    num_found: int
    """Number of sentences in the texts."""


def draw_sentences(texts: Iterable[str], max_sentences: int, seed: int = 0) -> SentenceSample:
    """Draw at most max_sentences of the sentences, each with the same chance; the same texts give the same sample.

    Memory does not grow beyond the sample (reservoir sampling, Vitter's algorithm R).
    """
    rng = random.Random(seed)
    drawn: list[tuple[int, str]] = []
    number = 0
    for number, sentence in enumerate(sentences(texts), start=1):
        if len(drawn) < max_sentences:
            drawn.append((number, sentence))
        elif (place := rng.randrange(number)) < max_sentences:
            drawn[place] = (number, sentence)
    return SentenceSample([sentence for _, sentence in sorted(drawn)], number)
