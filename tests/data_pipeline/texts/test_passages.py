"""Documents packed to passages: whole sentences, nothing lost."""

from pathlib import Path

from data_pipeline.samples.records import Record
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import SampleReader
from data_pipeline.sources.readers import SourceOptions, read_records
from data_pipeline.texts.passages import pack_passages
from data_pipeline.texts.tokenizer import TextTokenizer
from tests.support.shard_files import ALL, written
from tests.support.tiny_run import TEXT_LENGTH, TinyData


def test_passages_are_whole_sentences_of_about_text_length(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    reader = SampleReader(read_index(tiny_data.folder / "texts"), 1 << 20)
    passages = [reader.text(i) for i in range(reader.index.num_samples)]
    lengths = [len(tokenizer.encode(passage)) + 2 for passage in passages]
    sentences = [str(record.text) for record in read_records("text", "scenes:80", SourceOptions())]
    assert " ".join(passages) == " ".join(sentences)
    longest_sentence = max(len(tokenizer.encode(sentence)) + 2 for sentence in sentences)
    assert max(lengths) <= max(TEXT_LENGTH, longest_sentence)


def test_sentences_that_are_too_long_are_cut_and_nothing_is_lost(tiny_data: TinyData, tmp_path: Path) -> None:
    tokenizer = tiny_data.folder / "text_tokenizer.spm"
    words = [f"word{number}" for number in range(300)]
    unbroken = "".join(words)
    (tmp_path / "texts.txt").write_text(f"{' '.join(words)}\n{unbroken}\n")
    index = written(
        "text", tmp_path / "texts.txt", tmp_path / "out", keep=ALL, text_tokenizer=tokenizer, text_length=24
    )
    reader = SampleReader(index, 1 << 20)
    passages = [reader.text(i) for i in range(index.num_samples)]
    assert "".join(passages).replace(" ", "") == unbroken * 2
    assert max(len(TextTokenizer(tokenizer).encode(passage)) for passage in passages) <= 22


NORMALISED_AWAY = "\ufffd\ufffd"
"""Visible, but SentencePiece's normalisation leaves nothing of it."""


def test_a_document_of_which_the_tokenizer_makes_no_token_is_passed_on_by_name(tiny_data: TinyData) -> None:
    tokenizer = TextTokenizer(tiny_data.folder / "text_tokenizer.spm")
    documents = [Record("a", text="a red star"), Record("b", text=NORMALISED_AWAY), Record("c", text="a blue circle")]
    without: list[Record] = []
    (passage,) = pack_passages(documents, tokenizer, 24, without.append)
    assert passage.text == "a red star a blue circle" and [record.name for record in without] == ["b"]
