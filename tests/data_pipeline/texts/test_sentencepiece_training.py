"""Training of text tokenizers: a bounded sample, and SentencePiece's refusals in the words of the command line."""

import itertools
from pathlib import Path

import pytest

from data_pipeline.texts.sentencepiece_training import ModelType, train_text_tokenizer
from tests.support.launch import run_ranks

TEXTS = ["a few words of little use", "and some more of them"] * 10


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (TEXTS, 5000, r"vocab_size 5000 is more than the \d+ pieces that the texts give; lower --vocab-size"),
        (TEXTS, 10, r"vocab_size 10 is too small: the characters of the texts alone take \d+; raise --vocab-size"),
        (TEXTS, 2, "vocab_size 2 has no room for <unk>, <s> and </s>; raise --vocab-size"),
        (TEXTS, 0, "vocab_size 0 has no room for"),
        (TEXTS, 2**40, "is too large; lower --vocab-size"),
        ([], 100, "hold no text to train on"),
        (["", " \n "], 100, "hold no text to train on"),
        (["\u200b\u200b"], 100, "no visible character"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_reported_with_options_that_exist(
    texts: list[str], vocab_size: int, message: str, model_type: ModelType, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        train_text_tokenizer(texts, tmp_path / "t.spm", vocab_size, model_type)
    assert ".cc" not in str(raised.value) and "coverage" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_long_documents_are_learned_from_too(tmp_path: Path) -> None:
    words = ["".join(letters) for letters in itertools.product("bcdfg", "aeiou", "klmnp", "aeiou")]
    document = " ".join(words * 5)  # one line of more bytes than SentencePiece takes
    assert len(document) > 10_000
    tokenizer = train_text_tokenizer([document, "short"], tmp_path / "t.spm", 400, "bpe")
    known = [word for word in words if len(tokenizer.encode(word)) <= 2]
    assert len(known) > len(words) / 2


def test_the_command_never_replaces_a_tokenizer_and_reports_its_sample(tmp_path: Path) -> None:
    out = tmp_path / "t.spm"
    arguments = [out, "text=scenes:200", "--vocab-size", 60, "--model-type", "bpe", "--max-sentences", 50]
    ended = run_ranks(1, "data_pipeline.train_text_tokenizer", arguments)
    assert ended.exit_codes == [0], ended.stderr
    assert "62 ids, <mask> is 61; trained on 50 sentences, drawn evenly from " in ended.stdout[0]
    assert ended.stdout[0].rstrip().endswith("tokens are <unk>")
    before = out.read_bytes()
    ended = run_ranks(1, "data_pipeline.train_text_tokenizer", arguments)
    assert ended.exit_codes == [2] and f"{out} exists, and shards may have been written with it" in ended.stderr[0]
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["t.spm"]
