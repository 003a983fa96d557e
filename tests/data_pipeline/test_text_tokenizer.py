"""BEiT-3's ids around a SentencePiece model (FORMATS of XLMRobertaTokenizer)."""

import itertools
import pickle
from pathlib import Path

import pytest
import sentencepiece
from transformers import XLMRobertaTokenizer

from data_pipeline.scenes import draw_samples
from data_pipeline.text_tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SHORT_PART,
    UNK_ID,
    TextTokenizer,
    train_text_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "t.spm"
    return train_text_tokenizer((s.text or "" for s in draw_samples("text", 300)), path, 100, "bpe")


def test_ids_are_those_of_beit3(tokenizer: TextTokenizer) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    assert [pieces.id_to_piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert (BOS_ID, PAD_ID, EOS_ID, UNK_ID) == (0, 1, 2, 3)
    text = "a big red circle at the top on gray"
    assert tokenizer.encode(text) == [i + 1 for i in pieces.encode(text)]
    assert min(tokenizer.encode(text)) >= 4
    assert UNK_ID in tokenizer.encode("a \u96ea circle")
    assert tokenizer.mask_id == pieces.get_piece_size() + 1  # 64001 for beit3.spm's 64000 pieces
    assert tokenizer.vocab_size == pieces.get_piece_size() + 2
    assert tokenizer.piece_ids == (4, tokenizer.mask_id)


def test_a_text_comes_back(tokenizer: TextTokenizer) -> None:
    text = "the blue square is above the red star"
    ids = tokenizer.encode_to_length(text, 30)
    assert len(ids) == 30 and ids[0] == BOS_ID and ids[-1] == PAD_ID
    assert tokenizer.decode(ids) == text
    cut = tokenizer.encode_to_length(text, 5)
    assert cut == [BOS_ID, *tokenizer.encode(text)[:3], EOS_ID]


def test_it_travels_to_another_process(tokenizer: TextTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("a red star") == tokenizer.encode("a red star")


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        TextTokenizer(tmp_path / "none.spm")
    with pytest.raises(ValueError, match="vocab_size 5000 does not fit"):
        train_text_tokenizer(["a few words"], tmp_path / "t.spm", 5000)


def test_ids_are_those_of_the_tokenizer_that_microsofts_code_uses(tokenizer: TextTokenizer) -> None:
    theirs = XLMRobertaTokenizer(str(tokenizer.path))
    assert (theirs.bos_token_id, theirs.pad_token_id, theirs.eos_token_id) == (BOS_ID, PAD_ID, EOS_ID)
    assert (theirs.unk_token_id, theirs.mask_token_id) == (UNK_ID, tokenizer.mask_id)
    assert len(theirs) == tokenizer.vocab_size
    texts = [sample.text or "" for sample in draw_samples("text", 50)]
    for text in [*texts, "A Circle,  at\tthe\u00a0top!", "a \u96ea circle", "", " ", "<mask"]:
        assert tokenizer.encode(text) == theirs.convert_tokens_to_ids(theirs.tokenize(text))


def test_long_documents_are_learned_from_too(tmp_path: Path) -> None:
    words = ["".join(letters) for letters in itertools.product("bcdfg", "aeiou", "klmnp", "aeiou")]
    document = " ".join(words * 5)  # one line of more bytes than SentencePiece takes
    assert len(document) > 10_000
    tokenizer = train_text_tokenizer([document, "short"], tmp_path / "t.spm", 400, "bpe")
    known = [word for word in words if len(tokenizer.encode(word)) <= 2]
    assert len(known) > len(words) / 2
    parts = SHORT_PART.findall(document + "\n" + "x" * 2500 + " end")
    assert "".join(parts).replace(" ", "") == (document + "x" * 2500 + "end").replace(" ", "")
    assert max(map(len, parts)) <= 1000
    assert all(set(part.split()) <= set(words) for part in parts[:-4])  # no word was cut
