"""BEiT-3's ids over a SentencePiece model, as in XLMRobertaTokenizer."""

import io
import pickle
import re
from pathlib import Path

import pytest
import sentencepiece

from data_pipeline.samples.scenes import draw_samples
from data_pipeline.texts.sentencepiece_training import train_text_tokenizer
from data_pipeline.texts.tokenizer import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    TextTokenizer,
    UnknownShare,
    unknown_share,
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


def test_what_is_wrong_with_a_file_is_said_in_one_sentence(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"none\.spm does not exist; give that of the initial weights, such as beit3\.spm, or train one",
    ):
        TextTokenizer(tmp_path / "none.spm")
    with pytest.raises(OSError, match=r"cannot be read \(Is a directory\)"):
        TextTokenizer(tmp_path)
    sound = tokenizer.path.read_bytes()
    contents = {
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1356293\n",
        "empty": b"",
        "cut": sound[: len(sound) // 2],
        "page": b"<!DOCTYPE html><html>404</html>",
        "flipped": bytes([sound[0] ^ 1]) + sound[1:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        expected = "git-LFS pointer" if name == "pointer" else "damaged or not a SentencePiece model"
        with pytest.raises(ValueError, match=expected) as raised:
            TextTokenizer(tmp_path / name)
        assert "\n" not in str(raised.value) and ".cc" not in str(raised.value)


@pytest.mark.parametrize(
    ("pad_id", "unk_id", "bos_id", "eos_id", "message"),
    [
        (0, 2, -1, 1, "<unk> 2, <s> -1, </s> 1"),  # T5
        (0, 3, 2, 1, "<unk> 3, <s> 2, </s> 1"),  # Gemma
        (-1, 0, -1, 1, "<unk> 0, <s> -1, </s> 1"),
    ],
)
def test_models_with_other_specials_are_refused(
    pad_id: int, unk_id: int, bos_id: int, eos_id: int, message: str, tmp_path: Path
) -> None:
    model = io.BytesIO()
    texts = iter([s.text for s in draw_samples("text", 100)])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts,
        model_writer=model,
        vocab_size=60,
        model_type="bpe",
        minloglevel=2,
        pad_id=pad_id,
        unk_id=unk_id,
        bos_id=bos_id,
        eos_id=eos_id,
    )
    (tmp_path / "foreign.spm").write_bytes(model.getvalue())
    with pytest.raises(ValueError, match=re.escape(message)):
        TextTokenizer(tmp_path / "foreign.spm")


def test_the_share_of_unknown_tokens_is_counted_and_warned_of(tokenizer: TextTokenizer) -> None:
    share = unknown_share(tokenizer.encode_to_length("a \u96ea circle", 30))
    assert share.num_unknown == 1 and share.num_tokens == len(tokenizer.encode("a \u96ea circle"))
    assert "more than 1%" in share.warning and "does not cover" in share.warning
    both = share + UnknownShare(1000, 0)
    assert both.num_unknown == 1 and both.warning == "" and str(both) == f"0.10% of {both.num_tokens} tokens are <unk>"
    assert UnknownShare().share == 0
