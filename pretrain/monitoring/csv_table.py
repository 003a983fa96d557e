"""Figures as a table, RUN/figures.csv, for spreadsheets and pandas: one row per figure, whatever a step has."""

import csv
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pretrain.survival.json_lines import append_whole

TABLE_NAME = "figures.csv"
COLUMNS = ("step", "time", "name", "value")


class CsvTable:
    """The table of a run; a resumed run first drops the rows of steps that it takes again."""

    def __init__(self, run_dir: Path, first_step: int):
        """first_step: rows of this step and later ones are dropped, and rows that were cut off. Raises OSError."""
        path = run_dir / TABLE_NAME
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            with suppress(FileNotFoundError), path.open(newline="") as before:
                writer.writerows(rows_before(before, first_step))
        partial.rename(path)
        self._file = path.open("ab", buffering=0)

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows((step, f"{seconds:.3f}", name, repr(value)) for name, value in figures.items())
        append_whole(self._file, text.getvalue().encode())

    def close(self) -> None:
        self._file.close()


def rows_before(lines: Iterable[str], first_step: int) -> Iterable[list[str]]:
    """Yield the whole rows of a table that are of steps before first_step."""
    for row in csv.reader(line for line in lines if line.endswith("\n")):
        if len(row) == len(COLUMNS) and row[0].isdigit() and int(row[0]) < first_step:
            yield row
