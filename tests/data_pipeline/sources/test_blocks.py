"""Blocks of a source: fixed ranges, with bad records among their neighbors."""

from data_pipeline.samples.records import Record
from data_pipeline.sources import blocks as sources_blocks
from data_pipeline.sources.blocks import CHARACTERS_PER_TOKEN, block_digest, blocks


def records(count: int, text: str = "word") -> list[Record]:
    return [Record(str(number), text=text) for number in range(count)]


def test_a_block_holds_a_number_of_good_records_and_the_bad_ones_between_them() -> None:
    source = records(5)
    source.insert(1, Record("bad", problem="no image"))
    assert [len(block) for block in blocks(source, 2)] == [3, 2, 1]
    assert [record for block in blocks(source, 2) for record in block] == source


def test_a_block_of_documents_holds_about_the_characters_of_its_passages() -> None:
    source = records(12, "x" * CHARACTERS_PER_TOKEN)
    assert [len(block) for block in blocks(source, 2, text_length=3)] == [6, 6]


def test_a_block_of_bad_records_ends_too() -> None:
    bad = [Record("bad", problem="no image")] * (sources_blocks.MOST_PROBLEMS + 1)
    assert [len(block) for block in blocks(bad, 1)] == [sources_blocks.MOST_PROBLEMS, 1]


def test_a_digest_changes_with_the_annotation_of_a_task_alone() -> None:
    one, other = ([Record("a", text="what?", metadata={"answers": {word: 1}})] for word in ("red", "pink"))
    assert block_digest(one, "vqa") != block_digest(other, "vqa")
    assert block_digest(one, "pair") == block_digest(other, "pair")  # as folders of earlier versions have it
