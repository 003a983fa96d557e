"""Texts from ids of a text tokenizer."""

import pytest

from data_pipeline.sources.entries import EntryError
from data_pipeline.texts.token_ids import decoder
from data_pipeline.texts.tokenizer import TextTokenizer
from tests.support.tiny_run import TinyData


def test_ids_become_their_text_and_an_id_that_the_tokenizer_lacks_is_named(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    decode = decoder(tokenizer)
    assert decode(tokenizer.encode("a red circle")) == "a red circle"
    for missing in (-1, tokenizer.vocab_size):
        with pytest.raises(EntryError, match=rf"\({missing} of {tokenizer.vocab_size} ids\)"):
            decode([missing])
