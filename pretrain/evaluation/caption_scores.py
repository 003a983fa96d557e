"""BLEU-4 and CIDEr of captions against reference captions, as the COCO evaluation computes them.

    BLEU-4    min(1, exp(1 - R / C)) * (p1 p2 p3 p4) ** (1/4), over all captions at once; pn: the share of their n-grams
              that a reference has, each at most as often as there; C: words of the captions; R: of their references,
              of each caption the one of the closest length
    CIDEr-D   10 * mean over captions, their references r and n = 1..4 of
              exp(-(len(c) - len(r))**2 / 72) * sum(min(c_n, r_n) * r_n) / (|c_n| |r_n|)

c_n and r_n count n-grams, each weighted by ln(images / images with a reference that has it). Published figures of
"CIDEr" are of CIDEr-D. `cider` is the first form, without clipping and lengths, for comparison with other code.
Words are those of caption_words.py; neither metric stems them.

Sources: Papineni et al., "BLEU" (ACL 2002); Vedantam et al., "CIDEr" (arXiv 1411.5726); pycocoevalcap, whose figures
these are.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Words = Sequence[str]
NGram = tuple[str, ...]
LONGEST = 4
"""Longest n-grams that count."""
SIGMA = 6.0
"""Deviation of the lengths at which CIDEr-D falls to exp(-1/2)."""
TINY, SMALL = 1e-15, 1e-9
"""Added to counts of n-grams that are found and to all, as in pycocoevalcap: 0 / 0 is 0."""


def bleu4(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return BLEU-4 in [0, 1]. references: those of each caption, at least one."""
    found, total = [0] * LONGEST, [0] * LONGEST
    length = reference_length = 0
    for caption, own in zip(captions, references, strict=True):
        most: Counter[NGram] = Counter()
        for reference in own:
            most |= Counter(_ngrams(reference))
        for ngram, count in Counter(_ngrams(caption)).items():
            found[len(ngram) - 1] += min(count, most[ngram])
            total[len(ngram) - 1] += count
        length += len(caption)
        reference_length += min((abs(len(reference) - len(caption)), len(reference)) for reference in own)[1]
    precision = math.prod((right + TINY) / (count + SMALL) for right, count in zip(found, total, strict=True))
    brevity = min(1.0, math.exp(1 - reference_length / length)) if length else 0.0
    return brevity * precision ** (1 / LONGEST)


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return CIDEr-D in [0, 10]. references: those of each caption, at least one."""
    return _cider(captions, references, is_d=True)


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Return CIDEr, times 10 like CIDEr-D. references: those of each caption, at least one."""
    return _cider(captions, references, is_d=False)


@dataclass(frozen=True)
class _Vector:
    """The weighted n-grams of a caption."""

    weights: list[dict[NGram, float]]
    """For n = 1 to LONGEST."""
    norms: list[float]
    length: int
    """Number of pairs of words, as pycocoevalcap counts lengths."""


def _cider(captions: Sequence[Words], references: Sequence[Sequence[Words]], is_d: bool) -> float:
    num_with: Counter[NGram] = Counter()
    for own in references:
        num_with.update({ngram for reference in own for ngram in _ngrams(reference)})
    scores = []
    for caption, own in zip(captions, references, strict=True):
        vector = _vector(caption, num_with, len(captions))
        similarities = [_similarity(vector, _vector(words, num_with, len(captions)), is_d) for words in own]
        scores.append(10 * sum(similarities) / len(similarities))
    return sum(scores) / len(scores)


def _vector(words: Words, num_with: Counter[NGram], num_images: int) -> _Vector:
    weights: list[dict[NGram, float]] = [{} for _ in range(LONGEST)]
    for ngram, count in Counter(_ngrams(words)).items():
        weights[len(ngram) - 1][ngram] = count * math.log(num_images / max(1, num_with[ngram]))
    norms = [math.sqrt(sum(weight**2 for weight in of_n.values())) for of_n in weights]
    return _Vector(weights, norms, max(0, len(words) - 1))


def _similarity(caption: _Vector, reference: _Vector, is_d: bool) -> float:
    """Return the mean over n of the similarities of two captions."""
    total = 0.0
    for own, others, own_norm, norm in zip(
        caption.weights, reference.weights, caption.norms, reference.norms, strict=True
    ):
        if own_norm and norm:
            shared = ((weight, others[ngram]) for ngram, weight in own.items() if ngram in others)
            products = (min(weight, other) * other if is_d else weight * other for weight, other in shared)
            total += sum(products) / (own_norm * norm)
    penalty = math.exp(-((caption.length - reference.length) ** 2) / (2 * SIGMA**2)) if is_d else 1.0
    return penalty * total / LONGEST


def _ngrams(words: Words) -> Iterator[NGram]:
    """Yield the n-grams of a text, each as often as it occurs."""
    for n in range(1, LONGEST + 1):
        for start in range(len(words) - n + 1):
            yield tuple(words[start : start + n])
