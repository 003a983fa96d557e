"""BLEU-4 and CIDEr against values worked out by hand, and against those of pycocoevalcap 1.2."""

import math

import pytest

from pretrain.evaluation.caption_scores import bleu4, cider, cider_d


def split(*captions: str) -> list[list[str]]:
    return [caption.split() for caption in captions]


CAPTIONS = split("a red cat sits on the mat", "two dogs run", "birds fly over the blue water")
REFERENCES = [
    split("a cat sits on a mat", "the red cat is sitting on the mat"),
    split("two dogs are running", "dogs run on grass", "two brown dogs run"),
    split("birds fly over water", "a flock of birds flies over the sea"),
]


def test_figures_are_those_of_pycocoevalcap() -> None:
    """Its Cider is CIDEr-D; its Bleu with the option closest, of which the fourth value counts."""
    assert cider_d(CAPTIONS, REFERENCES) == pytest.approx(2.9499803508886653, abs=1e-9)
    assert bleu4(CAPTIONS, REFERENCES) == pytest.approx(7.456118208488678e-05, abs=1e-9)


def test_bleu_is_that_counted_by_hand() -> None:
    """Papineni's second candidate: of "the the the the the the the" two words count, as a reference has two."""
    captions, references = split("the the the the the the the"), [split("the cat is on the mat")]
    # no pair of words of it is in the reference, so that the product is next to nothing
    assert bleu4(captions, references) == pytest.approx((2 / 7 * 1e-15 / 6 * 1e-15 / 5 * 1e-15 / 4) ** 0.25, rel=1e-6)
    # five words, four of them in order: 5/5, 3/4, 2/3, 1/2; the reference has six words
    captions, references = split("on the mat sat cats"), [split("cats on the mat sat down")]
    expected = math.exp(1 - 6 / 5) * (5 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert bleu4(captions, references) == pytest.approx(expected, rel=1e-6)


def test_the_length_of_bleu_is_that_of_the_closest_reference() -> None:
    captions = split("a cat sits on the mat")
    references = [split("a cat sits on the mat today in the sun", "a cat sits on the mat at noon")]
    assert bleu4(captions, references) == pytest.approx(math.exp(1 - 8 / 6), rel=1e-6)


def test_cider_is_that_worked_out_by_hand() -> None:
    """Two images with one reference each: every n-gram of one of them has the weight ln 2, those of both have 0.

    "a cat" against "a dog" shares the word "a", of which both images have a reference; "a cat" against "a cat" shares
    "cat" and "a cat". There are no n-grams of three and four words, so half of the sum over n is 0.
    """
    references = [split("a cat"), split("a dog")]
    assert cider_d(split("a cat", "a dog"), references) == pytest.approx(10 * (1 + 1) / 4)
    assert cider_d(split("a cat", "a cat"), references) == pytest.approx(10 * (1 + 1) / 4 / 2)
    # "cat cat": clipped, "cat" counts once, 1 * 1 / (2 * 1); without clipping it is as good as "cat"
    only_words = 10 / 4 / 2
    assert cider_d(split("cat cat", "x"), references) == pytest.approx(only_words / 2)
    assert cider(split("cat cat", "x"), references) == pytest.approx(only_words)
    # one word shorter than the reference
    assert cider_d(split("cat", "x"), references) == pytest.approx(only_words * math.exp(-1 / 72))
    assert cider(split("cat", "x"), references) == pytest.approx(only_words)


def test_captions_without_words_and_words_of_every_image_count_nothing() -> None:
    references = [split("a cat"), split("a dog")]
    assert cider_d([[], []], references) == bleu4([[], []], references) == 0
    assert cider_d(split("a", "a"), references) == 0
    assert cider_d(split("a cat"), [split("a cat")]) == 0  # of one image alone nothing is rare
