"""The table in docs/speed_and_memory.md equals the output of `python -m pretrain.scaling`."""

import math
import os
import re
import subprocess
import sys

import pytest

from pretrain.engine.memory_config import read_memory_config
from pretrain.planning.options import ScalingOptions
from pretrain.planning.scaling import Machine, compute_seconds, row, timed_settings
from pretrain.planning.traffic import Network
from pretrain.recipes.beit3 import beit3_giant
from tests.support.launch import ON_CPU, ROOT

BETWEEN_GB = ("50", "6.25")
"""Bandwidths of the two networks in the table, in GB/s per GPU."""
PRINTED = re.compile(r" +(\d+) +(\d+) +([\d.]+) +([\d.]+) .*  (stage \d.* GB) +(\d+)% to (\d+)%")


def documented_rows() -> dict[int, list[str]]:
    """Return the cells of the documented table by number of GPUs."""
    text = (ROOT / "docs" / "speed_and_memory.md").read_text()
    assert all(f"`--between-gb {between}`" in text for between in BETWEEN_GB)
    table = text.partition("| GPUs | samples each |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines()[2:]]
    return {int(cells[0].replace(",", "")): cells for cells in rows}


def cells_of(lines: list[str]) -> list[str]:
    """Return a row of the documented table from the lines that the command prints for its two networks."""
    first, second = (PRINTED.match(line) for line in lines)
    assert first is not None and second is not None
    gpus, samples, compute, stage_3, best, hidden, apart = first.groups()
    assert second[5] == best
    figures = [stage_3, f"{hidden} % to {apart} %", second[4], f"{second[6]} % to {second[7]} %"]
    return [f"{int(gpus):,}", samples, compute, best, *figures]


def test_a_row_of_the_documented_table_equals_the_computed_one() -> None:
    config, default, num_gpus = beit3_giant(), ScalingOptions(), 1024
    network = Network(8, default.within_gb, float(BETWEEN_GB[0]), default.hop_us)
    machine = Machine(default.mfu, default.peak_tflops, default.gpu_gb, default.reserve_gb, network)
    settings = timed_settings(config, read_memory_config(config.deepspeed_config), num_gpus, machine)
    line = row(config, num_gpus, compute_seconds(config, num_gpus, machine), settings)
    rows = documented_rows()
    assert rows[num_gpus][:6] == cells_of([line, line])[:6]
    assert list(rows) == [8 * 2**power for power in range(8)]
    assert math.gcd(*vars(config.samples_per_step).values()) == 2048  # the sentence below the table


@pytest.mark.slow
def test_the_documented_table_equals_the_output_of_the_command() -> None:
    printed = []
    for between in BETWEEN_GB:
        command = [sys.executable, "-m", "pretrain.scaling", "--between-gb", between]
        ended = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **ON_CPU}, check=True, text=True, capture_output=True
        )
        printed.append([line for line in ended.stdout.splitlines() if PRINTED.match(line)])
    rows = [cells_of([first, second]) for first, second in zip(*printed, strict=True)]
    assert rows == list(documented_rows().values())
