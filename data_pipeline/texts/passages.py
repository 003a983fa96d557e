"""Packing of documents to passages of about text_length tokens, so that text batches have almost no padding."""

from collections.abc import Callable, Iterable, Iterator

from data_pipeline.samples.records import Record
from data_pipeline.texts.sentence_sample import SENTENCE_END
from data_pipeline.texts.tokenizer import TextTokenizer


def pack_passages(
    documents: Iterable[Record], tokenizer: TextTokenizer, text_length: int, without_tokens: Callable[[Record], None]
) -> Iterator[Record]:
    """Yield passages of whole sentences of consecutive documents, at most text_length ids including <s> and </s>.

    A longer sentence is cut between words. A passage is named after the document that it begins with and its number in
    the block. without_tokens: called with each document that has no token.
    """
    room = text_length - 2
    passage: list[str] = []
    used, number, name = 0, 0, ""
    for document in documents:
        assert document.text is not None
        is_empty = True
        for sentence, length in _sentences(document.text, tokenizer, room):
            is_empty = False
            if passage and used + length > room:
                yield Record(f"{name}_{number:06d}", text=" ".join(passage))
                passage, used, number = [], 0, number + 1
            if not passage:
                name = document.name
            passage.append(sentence)
            used += length
        if is_empty:
            without_tokens(document)
    if passage:
        yield Record(f"{name}_{number:06d}", text=" ".join(passage))


def _sentences(text: str, tokenizer: TextTokenizer, room: int) -> Iterator[tuple[str, int]]:
    """Yield sentences and their numbers of ids, none above `room`."""
    for sentence in SENTENCE_END.split(text):
        length = len(tokenizer.encode(sentence))
        if length > room:
            yield from _halves(sentence, tokenizer, room)
        elif length > 0:
            yield sentence, length


def _halves(sentence: str, tokenizer: TextTokenizer, room: int) -> Iterator[tuple[str, int]]:
    """Yield parts of a sentence that is too long, halved until they fit, at a space if there is one."""
    middle = len(sentence) // 2
    cut = sentence.find(" ", middle)
    cut = cut if 0 < cut < len(sentence) - 1 else sentence.rfind(" ", 1, middle)
    cut = cut if cut > 0 else middle
    for part in (sentence[:cut].strip(), sentence[cut:].strip()):
        length = len(tokenizer.encode(part))
        if length > room and len(part) > 1:
            yield from _halves(part, tokenizer, room)
        elif length > 0:
            yield part, length
