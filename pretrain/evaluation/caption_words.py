"""The words of a caption as the caption metrics count them: those of the Penn Treebank, in lower case, unpunctuated.

The COCO evaluation runs Stanford's PTBTokenizer, in Java, and drops punctuation. This is its rules as far as captions
need them, in Python: clitics are words of their own (a man 's hat, do n't), hyphens and the periods of abbreviations
stay inside words, numbers keep their commas, and symbols are words. docs/finetuning.md says how often both agree.
"""

import re

_MARKS = frozenset("'`.?!,:-;\"\u2018\u2019\u201c\u201d\u2013\u2014\u2026")
"""Tokens that are dropped, as by the COCO evaluation."""
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""Names of brackets in the Penn Treebank. In lower case, as here, the COCO evaluation does not drop them."""
_SPLIT_WORDS = {
    word.replace(" ", ""): word for word in ("can not", "gim me", "gon na", "got ta", "lem me", "wan na")
} | {"'tis": "'t is", "'twas": "'t was"}
_ABBREVIATIONS = frozenset("mr mrs ms dr prof st ave jr sr vs etc mt ft inc ltd co corp".split())
_TOKEN = re.compile(
    r"""
    \d+(?:[.,:/]\d+)+                         # 1,000  3.5  10:30
    | (?:[a-z]\.){2,}                         # u.s.
    | [^\W_]+(?:[-'\u2019&/.@_][^\W_]+)*      # words, with what joins their parts
    | '(?:n'|(?:s|d|m|ll|re|ve|tis|twas)\b)   # what begins with an apostrophe
    | \S                                      # all else, one by one
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"^(.+?)(n['\u2019]t|['\u2019](?:s|d|m|ll|re|ve))$")


def caption_words(caption: str) -> list[str]:
    """Return the words of a caption."""
    words: list[str] = []
    text = caption.lower()
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _ABBREVIATIONS and text[match.end() : match.end() + 1] == ".":
            token += "."
        words += _parts(token)
    return [_BRACKETS.get(word, word) for word in words if word not in _MARKS]


def _parts(token: str) -> list[str]:
    """Return a token in the parts that the Penn Treebank separates."""
    if token in _SPLIT_WORDS:
        return _SPLIT_WORDS[token].split()
    if (found := _CLITIC.match(token)) is not None:
        return [*_parts(found.group(1)), found.group(2).replace("\u2019", "'")]
    return [token]
