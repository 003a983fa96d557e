"""Files of features, their keys, and their absence until they are complete. CPU, a second."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from pretrain.inference import feature_files
from pretrain.inference.feature_files import SHAPE_KEY, FeatureFile, keys_path

BATCHES: list[tuple[list[dict[str, Any]], int]] = [
    ([{"key": "bad", "skipped": "image cannot be decoded (x)"}], 0),
    ([{"key": "a", "tokens": 3}, {"key": "worse", "skipped": "no"}, {"key": "b", "tokens": 4}], 2),
    ([{"key": "c\udcff", "tokens": 5}], 1),
    ([{"key": "worst", "skipped": "no"}], 0),
]


def write(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray[Any, Any]:
    """Write the batches with random features, and return these."""
    random = np.random.default_rng(0)
    rows = [random.standard_normal((count, *shape)).astype(np.float32) for _, count in BATCHES]
    with FeatureFile(path, dtype) as file:
        for (samples, _), features in zip(BATCHES, rows, strict=True):
            file.write(samples, features if len(features) else None)
            assert not path.exists()
    return np.concatenate(rows)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_npy_is_the_rows_and_beside_it_are_all_keys(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "features.npy"
    expected = write(path, shape, dtype).astype(dtype)
    found = np.load(path, mmap_mode="r")
    assert found.dtype == dtype and found.shape == (3, *shape) and np.array_equal(found, expected)
    lines = [json.loads(line) for line in keys_path(path).read_text().splitlines()]
    assert [line["key"] for line in lines] == ["bad", "a", "worse", "b", "c\udcff", "worst"]
    assert [line.get("row") for line in lines] == [None, 0, None, 1, 2, None]
    assert lines[0]["skipped"] == "image cannot be decoded (x)" and lines[3]["tokens"] == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["features.keys.jsonl", "features.npy"]


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("row_group_bytes", "num_groups"), [(1, 3), (1 << 24, 1)])
def test_a_parquet_has_a_row_per_sample_in_row_groups_of_some_size(
    shape: tuple[int, ...],
    dtype: str,
    row_group_bytes: int,
    num_groups: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_files, "ROW_GROUP_BYTES", row_group_bytes)
    path = tmp_path / "features.parquet"
    expected = write(path, shape, dtype).astype(dtype)
    table = pyarrow.parquet.read_table(path)
    assert table["key"].to_pylist() == ["bad", "a", "worse", "b", "c\\xff", "worst"]
    assert table["skipped"].to_pylist() == ["image cannot be decoded (x)", None, "no", None, None, "no"]
    assert table["tokens"].to_pylist() == [None, 3, None, 4, 5, None]
    good = table.filter(table["skipped"].is_null())["features"].combine_chunks()
    read_shape = json.loads(table.schema.metadata[SHAPE_KEY.encode()])
    assert np.array_equal(np.array(good.to_pylist(), dtype).reshape(-1, *read_shape), expected)
    assert table["features"].null_count == 3
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == num_groups
    assert [entry.name for entry in tmp_path.iterdir()] == ["features.parquet"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_an_error_leaves_neither_a_file_nor_a_part_of_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"features{suffix}"
    with pytest.raises(ZeroDivisionError), FeatureFile(path, "float32") as file:
        file.write([{"key": "a"}], np.zeros((1, 2)))
        assert list(tmp_path.iterdir())
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere.*cannot be written"):
        FeatureFile(tmp_path / "nowhere" / "features.npy", "float32")


def test_parquet_without_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pyarrow.parquet is needed to write .*; pip install pyarrow"):
        FeatureFile(tmp_path / "features.parquet", "float32")
