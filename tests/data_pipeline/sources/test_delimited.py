"""Rows of .csv and .tsv files: delimiters, quotes and line ends."""

import csv
from pathlib import Path

import pytest

from data_pipeline.samples.records import Record
from data_pipeline.samples.sample import Kind
from data_pipeline.sources.readers import SourceOptions, read_records


def records(kind: Kind, source: Path, **options: object) -> list[Record]:
    return list(read_records(kind, str(source), SourceOptions(**options)))  # type: ignore[arg-type]


def test_a_carriage_return_in_a_tsv_caption_ends_no_row(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_bytes(b"\xef\xbb\xbfimage\tcaption\r\na.jpg\tone\rstill one\r\nb.jpg\ttwo\r\n")
    found = records("pair", tmp_path / "pairs.tsv")
    assert [(record.key, record.text) for record in found] == [("a", "one\rstill one"), ("b", "two")]


def test_a_quote_that_does_not_close_costs_its_row_alone_whatever_follows(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    lines = ["image,caption", 'a.jpg,"one, \nin two lines"', 'b.jpg,"two', "c.jpg,three", 'd.jpg,"four"', "e.jpg,five"]
    for num_lines, captions in ((4, ["three"]), (6, ["three", "four", "five"])):
        path.write_text("\n".join(lines[:num_lines]))
        found = records("pair", path)
        assert [record.text for record in found if not record.problem] == ["one, \nin two lines", *captions]
        (damaged,) = [record for record in found if record.problem]
        assert damaged.place == f"{path}:4" and str(damaged.problem).startswith("row is not valid CSV (")
    path.write_text("\n".join([lines[0], 'b.jpg,"two', *(f"{number}.jpg,{number}" for number in range(3000))]))
    found = records("pair", path)
    assert len(found) == 3001 and found[-1].text == "2999"
    assert [record.problem for record in found if record.problem] == ["row is not valid CSV (a quote does not close)"]


def test_a_carriage_return_in_the_header_of_a_tsv_is_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_bytes(b"image\tcapt\rion\na.jpg\tone\n")
    with pytest.raises(ValueError, match="has no column 'caption'"):
        records("pair", tmp_path / "pairs.tsv")


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_a_csv_with_any_delimiter(delimiter: str, tmp_path: Path) -> None:
    rows = [["id", "image", "caption"], ["1", "a.jpg", "one, two; three|four"], ["2", "b.jpg", 'say "five"\nand six']]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    found = records("pair", tmp_path / "pairs.csv")
    assert [(record.name, record.text) for record in found] == [(row[1], row[2]) for row in rows[1:]]
    with pytest.raises(ValueError, match="has no column 'title' but id, image, caption; name it with"):
        records("pair", tmp_path / "pairs.csv", caption_column="title")
