"""Files of features, written row by row, so that memory does not grow with their number: NumPy's, or Parquet.

FEATURES.npy holds the rows alone. FEATURES.keys.jsonl beside it has a line per sample of the source, in its order:

    {"key": "a/cat.jpg", "row": 0}
    {"key": "a/broken.jpg", "skipped": "image cannot be decoded (...)"}

A Parquet file has a row per sample: its key, its features as one flat list, whose shape is in the schema's metadata,
and why it was skipped. Either appears under its name when it is complete.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from data_pipeline.files.partial_files import own_partial
from data_pipeline.files.retries import naming_write_errors
from data_pipeline.samples.sample import is_utf8, printable
from data_pipeline.sources.files import require

ROW_GROUP_BYTES = 1 << 24
"""Size of the features at which a row group of Parquet is written: its index would grow with smaller ones."""
SHAPE_KEY = "shape"
"""Key of a sample's shape in the metadata of a Parquet file, as a JSON list."""


class FeatureWriter(Protocol):
    """A file that features are appended to."""

    def write(self, samples: list[dict[str, Any]], features: NDArray[Any] | None) -> None:
        """Append consecutive samples of the source: what is known of each, with its key, and with `skipped` for one
        without features; and the features (B, ...) of the others, None if there are none."""

    def finish(self) -> None:
        """Complete the file: now it appears under its name."""

    def discard(self) -> None:
        """Delete what was written of an unfinished file."""


class NpyWriter:
    """FEATURES.npy and FEATURES.keys.jsonl."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]):
        """shape: of one sample."""
        self._path, self._keys_path = path, keys_path(path)
        self._shape, self._dtype, self._num_rows = shape, dtype, 0
        self._file: BinaryIO = own_partial(path).open("wb")
        self._keys = own_partial(self._keys_path).open("w")
        self._write_header()

    def write(self, samples: list[dict[str, Any]], features: NDArray[Any] | None) -> None:
        if features is not None:
            assert features.shape[1:] == self._shape
            self._file.write(np.ascontiguousarray(features, self._dtype).tobytes())
        for sample in samples:
            if "skipped" not in sample:
                sample = {"key": sample["key"], "row": self._num_rows, **sample}
                self._num_rows += 1
            self._keys.write(json.dumps(sample) + "\n")

    def finish(self) -> None:
        self._file.seek(0)
        self._write_header()  # NumPy leaves room for the number of rows to grow
        self._file.close()
        self._keys.close()
        self._path.unlink(missing_ok=True)  # an array of before must never lie beside these keys
        own_partial(self._keys_path).rename(self._keys_path)
        own_partial(self._path).rename(self._path)

    def discard(self) -> None:
        self._file.close()
        self._keys.close()
        for path in (self._path, self._keys_path):
            own_partial(path).unlink(missing_ok=True)

    def _write_header(self) -> None:
        header = {
            "descr": npy_format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._num_rows, *self._shape),
        }
        npy_format.write_array_header_1_0(self._file, header)


class ParquetWriter:
    """FEATURES.parquet, in row groups of some megabytes."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]):
        """shape: of one sample. Raises ValueError if pyarrow is not installed."""
        self._path, self._dtype = path, dtype
        self._arrow = arrow = require("pyarrow", f"to write {path}")
        self._type = arrow.list_(arrow.from_numpy_dtype(dtype), int(np.prod(shape)))
        columns = {"key": arrow.string(), "features": self._type, "tokens": arrow.int32(), "skipped": arrow.string()}
        self._schema = arrow.schema(columns, metadata={SHAPE_KEY: json.dumps(shape)})
        parquet = require("pyarrow.parquet", f"to write {path}")
        # features are noise to a compressor and to a dictionary
        self._file = parquet.ParquetWriter(
            own_partial(path), self._schema, compression="none", use_dictionary=False, write_statistics=False
        )
        self._samples: list[dict[str, Any]] = []
        self._rows: list[NDArray[Any]] = []
        """The next row group."""

    def write(self, samples: list[dict[str, Any]], features: NDArray[Any] | None) -> None:
        self._samples += samples
        if features is not None:
            self._rows.append(features.reshape(len(features), -1).astype(self._dtype))
        if sum(rows.nbytes for rows in self._rows) >= ROW_GROUP_BYTES:
            self._write_row_group()

    def _write_row_group(self) -> None:
        arrow, samples = self._arrow, self._samples
        is_skipped = np.array(["skipped" in sample for sample in samples])
        rows = np.zeros((len(samples), self._type.list_size), self._dtype)
        rows[~is_skipped] = np.concatenate([rows[:0], *self._rows])
        arrays = {
            "key": arrow.array([_utf8(sample["key"]) for sample in samples]),
            "features": arrow.FixedSizeListArray.from_arrays(
                arrow.array(rows.reshape(-1)), type=self._type, mask=arrow.array(is_skipped)
            ),
            "tokens": arrow.array([sample.get("tokens") for sample in samples], arrow.int32()),
            "skipped": arrow.array([_utf8(sample.get("skipped")) for sample in samples], arrow.string()),
        }
        self._file.write_table(arrow.Table.from_arrays(list(arrays.values()), schema=self._schema))
        self._samples, self._rows = [], []

    def finish(self) -> None:
        if self._samples:
            self._write_row_group()
        self._file.close()
        own_partial(self._path).rename(self._path)

    def discard(self) -> None:
        self._file.close()
        own_partial(self._path).unlink(missing_ok=True)


WRITERS: dict[str, type[NpyWriter] | type[ParquetWriter]] = {".npy": NpyWriter, ".parquet": ParquetWriter}
"""By the suffix of the file."""


class FeatureFile:
    """A file of features that is opened with the first of them, when their shape is known."""

    def __init__(self, path: Path, dtype: str):
        """Raises ValueError or OSError if the file could not be written, before hours of work."""
        self._path, self._dtype = path, np.dtype(dtype)
        self._writer: FeatureWriter | None = None
        self._skipped: list[dict[str, Any]] = []
        """Samples before the first with features."""
        if path.suffix == ".parquet":
            require("pyarrow.parquet", f"to write {path}")
        with naming_write_errors(path):
            own_partial(path).touch()
            own_partial(path).unlink()

    def write(self, samples: list[dict[str, Any]], features: NDArray[Any] | None) -> None:
        """Append samples and features as `FeatureWriter.write` does."""
        with naming_write_errors(self._path):
            if self._writer is None:
                if features is None:
                    self._skipped += samples
                    return
                self._writer = WRITERS[self._path.suffix](self._path, features.shape[1:], self._dtype)
                samples = self._skipped + samples
            self._writer.write(samples, features)

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._writer is not None:
            with naming_write_errors(self._path):
                if kind is None:
                    self._writer.finish()
                else:
                    self._writer.discard()


def keys_path(features: Path) -> Path:
    """Return the path of the keys beside a .npy."""
    return features.with_suffix(".keys.jsonl")


def _utf8(name: str | None) -> str | None:
    """Return a name that Parquet can hold: file names need not be UTF-8."""
    return name if name is None or is_utf8(name) else printable(name)
