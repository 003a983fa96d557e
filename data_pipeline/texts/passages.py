"""Documents to passages of about text_length tokens, so that almost nothing of a text batch is padding."""

from collections.abc import Callable, Iterable, Iterator

from data_pipeline.samples.records import Record
from data_pipeline.texts.sentence_sample import SENTENCE_END
from data_pipeline.texts.tokenizer import TextTokenizer


def pack_passages(
    documents: Iterable[Record], tokenizer: TextTokenizer, text_length: int, without_tokens: Callable[[Record], None]
) -> Iterator[Record]:
    """Whole sentences of consecutive documents, joined to passages of at most text_length ids with <s> and </s>.

    A sentence longer than that is cut where its words end. A passage is named for the document that it begins with and
    its number among those passed. without_tokens: called with each document of which the tokenizer makes no id.
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
    """Sentences and their numbers of ids, none of them above `room`."""
    for sentence in SENTENCE_END.split(text):
        length = len(tokenizer.encode(sentence))
        if length > room:
            yield from _halves(sentence, tokenizer, room)
        elif length > 0:
            yield sentence, length


def _halves(sentence: str, tokenizer: TextTokenizer, room: int) -> Iterator[tuple[str, int]]:
    """Parts of a sentence that is too long, cut in the middle until they fit, at a space where there is one."""
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
