"""Losses of fifty steps of a small run, kept in fifty_steps.json: what makes a step faster must not change them.

    python -m tests.golden.fifty_steps     # writes them anew: only where a change of the losses is meant

All that is random is fixed, so they differ by rounding alone: between machines, torch versions and orders of summation.
"""

import json
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.run_log import read_log
from tests.launch import ROOT, run_ranks
from tests.tiny_run import TinyData, write_tiny_data

GOLDEN = Path(__file__).with_suffix(".json")
NUM_STEPS = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = write_tiny_data(Path(folder))
        losses = fifty_steps(data, Path(folder) / "run")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    golden = {"commit": commit, "torch": torch.__version__, "hardware": platform.machine(), "losses": losses}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


def fifty_steps(data: TinyData, run_dir: Path, extra: Sequence[object] = (), num_ranks: int = 2) -> list[float]:
    """The losses of a run in float32; extra: overrides."""
    sizes = ["--num-steps", NUM_STEPS, "--model.num-vl-layers", 1, "--precision", "float32"]
    ended = run_ranks(num_ranks, "pretrain.train", ["demo", *data.overrides(run_dir), *sizes, *extra])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    return [record["loss"] for record in read_log(run_dir)]


if __name__ == "__main__":
    main()
