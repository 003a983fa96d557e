"""Texts to measure on: passages of 512 tokens as text shards, and a tokenizer trained on them."""

import io
import json
import pydoc_data.topics
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.texts.sentencepiece_training import train_text_tokenizer
from data_pipeline.texts.tokenizer import TextTokenizer

MAX_VOCAB_SIZE = 16_000
PASSAGE_TOKENS = 510
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")


def train_tokenizer(source: Path | None, path: Path) -> TextTokenizer:
    """Train a unigram model of 16,000 pieces, or fewer if the texts do not give that many."""
    sentences = list(_sentences(source))
    try:
        return train_text_tokenizer(sentences, path, MAX_VOCAB_SIZE)
    except ValueError as error:
        at_most = re.search(r"more than the (\d+) pieces", str(error))
        if not at_most:
            raise
        return train_text_tokenizer(sentences, path, int(at_most[1]))


def write_text_shards(folder: Path, source: Path | None, tokenizer: TextTokenizer, num_shards: int) -> None:
    """Write whole sentences, packed into passages of at most 510 tokens, in turn into the shards."""
    passages = list(_passages(source, tokenizer))
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number in range(shard, len(passages), num_shards):
                content = passages[number].encode()
                member = tarfile.TarInfo(f"{number:06d}.txt")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _sentences(source: Path | None) -> Iterator[str]:
    """Yield the sentences of "text" in all *.jsonl of a folder; None: those of the topics of Python's help."""
    if source is None:
        texts = list(pydoc_data.topics.topics.values())
    else:
        lines = [line for path in sorted(source.glob("*.jsonl")) for line in path.read_text().splitlines()]
        if not lines:
            raise ValueError(f"{source} holds no .jsonl file; give a folder with JSON lines that have a text")
        texts = [json.loads(line)["text"] for line in lines]
    for text in texts:
        yield from filter(None, (sentence.strip() for sentence in _SENTENCE_END.split(text)))


def _passages(source: Path | None, tokenizer: TextTokenizer) -> Iterator[str]:
    passage: list[str] = []
    used = 0
    for sentence in _sentences(source):
        length = len(tokenizer.encode(sentence))
        if passage and used + length > PASSAGE_TOKENS:
            yield " ".join(passage)
            passage, used = [], 0
        passage.append(sentence)
        used += length
