"""The text tokenizer in a folder of weights. CPU, seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.files.hashing import file_sha256
from model.config import MultiwayConfig
from pretrain.formats.vocabulary import tokenizer_beside, unused_rows


def test_the_name_of_earlier_exports_is_still_read(tmp_path: Path) -> None:
    assert tokenizer_beside(tmp_path) is None
    (tmp_path / "beit3.spm").write_bytes(b"earlier")
    assert tokenizer_beside(tmp_path) == tmp_path / "beit3.spm"
    (tmp_path / "text_tokenizer.spm").write_bytes(b"ours")
    assert tokenizer_beside(tmp_path) == tmp_path / "text_tokenizer.spm"
    assert tokenizer_beside(tmp_path, is_microsofts=True) == tmp_path / "beit3.spm"


def test_a_fingerprint_decides_between_tokenizers(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "text_tokenizer.spm", tmp_path / "beit3.spm"
    ours.write_bytes(b"ours")
    theirs.write_bytes(b"theirs")
    assert tokenizer_beside(tmp_path, file_sha256(theirs)) == theirs
    assert tokenizer_beside(tmp_path, file_sha256(ours), is_microsofts=True) == ours
    with pytest.raises(ValueError, match="text_tokenizer.spm is not the text tokenizer that the weights beside it"):
        tokenizer_beside(tmp_path, "0" * 64)


def test_rows_without_an_id_are_counted() -> None:
    base = MultiwayConfig(attention="decoupled")
    found = unused_rows(8002, base, "do something")
    assert found is not None
    assert found.endswith(
        "8002 ids, the model 64010 rows of words: 56008, 31% of all parameters, are never used; do something"
    )
    published = unused_rows(64002, base, "do something")
    assert published is not None and published.endswith("8 are never used")  # no remedy is needed
    assert unused_rows(8002, replace(base, vocab_size=8002)) is None
