"""Texts that a source gives as ids of a text tokenizer, as Microsoft's index files do."""

from data_pipeline.sources.annotated import Decode
from data_pipeline.sources.entries import EntryError
from data_pipeline.texts.tokenizer import TextTokenizer


def decoder(tokenizer: TextTokenizer) -> Decode:
    """Return the function from token ids to their text. It raises EntryError for an id that the tokenizer lacks."""

    def decode(ids: list[int]) -> str:
        for number in ids:
            if not 0 <= number < tokenizer.vocab_size:
                raise EntryError(f"token id is not one of {tokenizer.path} ({number} of {tokenizer.vocab_size} ids)")
        return tokenizer.decode(ids)

    return decode
