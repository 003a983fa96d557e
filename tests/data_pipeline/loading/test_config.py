"""Data settings: sources as the command line gives them, and the global batch in words."""

from fractions import Fraction
from pathlib import Path

import pytest

from data_pipeline.loading.config import SamplesPerStep, parse_source


def test_a_step_is_described_in_words() -> None:
    assert str(SamplesPerStep(16, 4, 8)) == "16 images, 4 pairs and 8 texts"
    assert str(SamplesPerStep(0, 4, 8)) == "4 pairs and 8 texts" and str(SamplesPerStep(0, 0, 8)) == "8 texts"


@pytest.mark.parametrize(
    ("entry", "folder", "weight"),
    [
        ("data/coco", "data/coco", Fraction(1)),
        ("data/coco=2.5", "data/coco", Fraction(5, 2)),
        ("data/coco=1/3", "data/coco", Fraction(1, 3)),
        ("s3://bucket/coco=2", "s3://bucket/coco", Fraction(2)),
        ("year=2020=2", "year=2020", Fraction(2)),
        ("a=x", "a=x", Fraction(1)),  # not a number: part of the name
    ],
)
def test_a_source_has_a_weight_after_its_last_equals_sign(entry: str, folder: str, weight: Fraction) -> None:
    assert parse_source(entry) == (folder, weight)


def test_a_folder_named_like_a_weighted_source_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "year=2020").mkdir()
    assert parse_source(f"{tmp_path}/year=2020") == (f"{tmp_path}/year=2020", Fraction(1))
    (tmp_path / "year").mkdir()
    with pytest.raises(ValueError, match="is a folder, and .* is one too; write .*year=2020=1"):
        parse_source(f"{tmp_path}/year=2020")


@pytest.mark.parametrize("entry", ["a=0", "a=-1", "", "a\0", "pipe:cat a"])
def test_an_entry_that_names_no_source_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="must be positive|names no folder|neither a path nor a plain URL"):
        parse_source(entry)
