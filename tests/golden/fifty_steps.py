"""Losses of fifty steps of a small run, kept next to this file: an optimization of a step must not change them.

    python -m tests.golden.fifty_steps SHARE     # rewrites them: only if the losses are meant to change

SHARE is objective.whole_image_share: 0, the paper's setting, or 0.5, the recipes'. All randomness is seeded, so losses
differ by rounding only: between machines, torch versions and orders of summation.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.run.run_log import read_log
from tests.support.launch import ROOT, run_ranks
from tests.support.tiny_run import TinyData, write_tiny_data

GOLDEN = {0.0: Path(__file__).with_suffix(".json"), 0.5: Path(__file__).with_name("fifty_steps_whole_images.json")}
"""Files of losses by the share of whole images."""
NUM_STEPS = 50


def main() -> None:
    share = float(sys.argv[1])
    golden_file = GOLDEN[share]
    with tempfile.TemporaryDirectory() as folder:
        data = write_tiny_data(Path(folder))
        losses = fifty_steps(data, Path(folder) / "run", share)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    golden = {"commit": commit, "torch": torch.__version__, "hardware": platform.machine(), "losses": losses}
    golden_file.write_text(json.dumps(golden, indent=1) + "\n")


def fifty_steps(
    data: TinyData, run_dir: Path, share: float, extra: Sequence[object] = (), num_ranks: int = 2
) -> list[float]:
    """Return the losses of a run in float32; extra: overrides."""
    objective = ["--objective.whole-image-share", share]
    sizes = ["--num-steps", NUM_STEPS, "--model.num-vl-layers", 1, "--precision", "float32"]
    ended = run_ranks(num_ranks, "pretrain.train", ["demo", *data.overrides(run_dir), *sizes, *objective, *extra])
    assert ended.exit_codes == [0] * num_ranks, ended.stderr
    return [record["loss"] for record in read_log(run_dir)]


if __name__ == "__main__":
    main()
