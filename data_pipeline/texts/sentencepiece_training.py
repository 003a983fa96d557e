"""Training of a SentencePiece model with BEiT-3's ids."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import naming_write_errors
from data_pipeline.texts.sentence_sample import draw_sentences
from data_pipeline.texts.tokenizer import TextTokenizer

ModelType = Literal["unigram", "bpe"]
MAX_SENTENCES = 1_000_000
"""Default limit: needs about 2 GB of memory at 100 characters per sentence."""


def train_text_tokenizer(
    texts: Iterable[str], path: Path, vocab_size: int, model_type: ModelType = "unigram"
) -> TextTokenizer:
    """Train on at most MAX_SENTENCES sentences of texts; see train_on_sentences."""
    return train_on_sentences(draw_sentences(texts, MAX_SENTENCES).sentences, path, vocab_size, model_type)


def train_on_sentences(
    sentences: Sequence[str], path: Path, vocab_size: int, model_type: ModelType = "unigram"
) -> TextTokenizer:
    """Train a model with BEiT-3's specials (SentencePiece's own, no pad or mask piece) and write it to `path`.

    vocab_size: the number of pieces, including SentencePiece's three specials. Raises ValueError if the sentences do
    not give that many, OSError if the file cannot be written.
    """
    if not any(sentence.strip() for sentence in sentences):
        raise ValueError("the sources hold no text to train on; give others")
    import sentencepiece  # see texts/tokenizer.py

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            num_threads=1,  # the result must not depend on the machine
            minloglevel=2,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(_sentence(str(error), vocab_size)) from error
    partial = own_partial(path)
    try:
        with naming_write_errors(path):
            partial.write_bytes(model.getvalue())
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return TextTokenizer(path)


def _sentence(message: str, vocab_size: int) -> str:
    """Return SentencePiece's message in terms of the command's options."""
    if largest := re.search(r"set it to a value <= (\d+)", message):
        return f"vocab_size {vocab_size} is more than the {largest[1]} pieces that the texts give; lower --vocab-size"
    if smallest := re.search(r"smaller than required_chars\. -?\d+ vs (\d+)", message):
        return (
            f"vocab_size {vocab_size} is too small: the characters of the texts alone take {smallest[1]}; raise "
            "--vocab-size"
        )
    if "all_chars_count" in message:
        return "the sources hold no visible character; give others"
    if "insert_id" in message or "vocab_size()) > (0)" in message:
        return f"vocab_size {vocab_size} has no room for <unk>, <s> and </s>; raise --vocab-size"
    if "cannot parse" in message:
        return f"vocab_size {vocab_size} is too large; lower --vocab-size"
    return f"SentencePiece cannot train on these texts ({message.strip()})"
