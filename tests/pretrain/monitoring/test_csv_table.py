"""The table of figures: one row per figure, and none of a step that is taken again. CPU, under a second."""

import csv
from pathlib import Path

from pretrain.monitoring.csv_table import TABLE_NAME, CsvTable


def rows(run_dir: Path) -> list[list[str]]:
    with (run_dir / TABLE_NAME).open(newline="") as file:
        return list(csv.reader(file))


def test_a_resumed_run_drops_the_rows_of_steps_that_it_takes_again(tmp_path: Path) -> None:
    table = CsvTable(tmp_path, 1)
    for step in range(1, 4):
        table.write(step, 10.0 + step, {"loss": step / 3, 'a,"b"': 1.0})
    with (tmp_path / TABLE_NAME).open("a") as file:
        file.write("4,14.000,lo")  # killed within a row
    resumed = CsvTable(tmp_path, 3)
    resumed.write(3, 20.0, {"loss": 0.5})
    resumed.close()
    assert rows(tmp_path) == [
        ["step", "time", "name", "value"],
        ["1", "11.000", "loss", repr(1 / 3)],
        ["1", "11.000", 'a,"b"', "1.0"],
        ["2", "12.000", "loss", repr(2 / 3)],
        ["2", "12.000", 'a,"b"', "1.0"],
        ["3", "20.000", "loss", "0.5"],
    ]
