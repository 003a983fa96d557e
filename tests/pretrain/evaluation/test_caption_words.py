"""Words of captions, against the output of Stanford's PTBTokenizer 3.4.1 as pycocoevalcap 1.2 runs it."""

import pytest

from pretrain.evaluation.caption_words import caption_words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's hat, on the dog's head.", "a man 's hat on the dog 's head"),
        ("Don't look: it's a \"STOP\" sign!", "do n't look it 's a stop sign"),
        ("Two T-shirts (red and blue) hang on a line...", "two t-shirts -lrb- red and blue -rrb- hang on a line"),
        ("A plate of food -- with rice & beans.", "a plate of food with rice & beans"),
        ("The U.S. flag flies near St. Mary's church.", "the u.s. flag flies near st. mary 's church"),
        ("A clock shows 10:30 a.m. on 5th Ave.", "a clock shows 10:30 a.m. on 5th ave."),
        ("A man who can't swim, cannot dive.", "a man who ca n't swim can not dive"),
        ("About 1,000 people; 50% of them wear hats.", "about 1,000 people 50 % of them wear hats"),
        ("'tis a 3.5 inch toy/car", "'t is a 3.5 inch toy/car"),
        ("A black-and-white photo of a 1950's car.", "a black-and-white photo of a 1950 's car"),
        ('a street sign that reads "O\'Connell St."', "a street sign that reads o'connell st."),
        ("the kids' bikes", "the kids bikes"),
        ("blue shirt's sleeve,holding a phone .", "blue shirt 's sleeve holding a phone"),
        ("rock 'n' roll", "rock 'n' roll"),
        ("a man\u2019s hat", "a man 's hat"),
        ("a caf\u00e9 [outside] {today}", "a caf\u00e9 -lsb- outside -rsb- -lcb- today -rcb-"),
        ("?!", ""),
    ],
)
def test_words_are_those_of_the_coco_evaluation(caption: str, words: str) -> None:
    assert caption_words(caption) == words.split()
