"""The bounded sample that a text tokenizer is trained on."""

import tracemalloc
from collections import Counter

from data_pipeline.texts.sentence_sample import SHORT_PART, draw_sentences


def test_few_sentences_are_all_drawn_in_their_order() -> None:
    sample = draw_sentences(["One. Two!\nthree", "", "Four? five"], 5)
    assert sample.sentences == ["One.", "Two!", "three", "Four?", "five"] and sample.num_found == 5


def test_every_sentence_has_the_same_chance() -> None:
    texts = [f"sentence {number}" for number in range(20)]
    counts = Counter(sentence for seed in range(2000) for sentence in draw_sentences(texts, 5, seed).sentences)
    assert len(counts) == 20 and counts.total() == 10_000
    assert all(abs(count - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5 for count in counts.values())
    assert draw_sentences(texts, 5) == draw_sentences(texts, 5)
    assert draw_sentences(texts, 5).num_found == 20


def test_memory_is_that_of_the_sample() -> None:
    tracemalloc.start()
    sample = draw_sentences((f"{number} " + "x" * 400 for number in range(20_000)), 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sample.sentences) == 100 and sample.num_found == 20_000
    assert peak < 300_000  # all of them take 8 MB


def test_no_sentence_is_longer_than_sentencepiece_takes_and_no_word_is_cut() -> None:
    words = [f"word{number}" for number in range(3000)]
    document = " ".join(words)
    parts = draw_sentences([document + "\n" + "x" * 2500 + " end"], 10**6).sentences
    assert max(map(len, parts)) <= 1000
    assert "".join(parts).replace(" ", "") == (document + "x" * 2500 + "end").replace(" ", "")
    assert all(set(part.split()) <= set(words) for part in SHORT_PART.findall(document))
