"""The job scripts on a real Slurm: SLURM_CONF must point at a cluster whose nodes see this folder."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.shard_index import read_index
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.launch import ROOT

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not os.environ.get("SLURM_CONF") or not shutil.which("sbatch"), reason="SLURM_CONF is not set"),
]
TIMEOUT_SECONDS = 240


def submit_and_wait(folder: Path, *arguments: object) -> str:
    """Submit a job from the checkout and wait for all of it. Returns its output; the venv is that of this process."""
    (folder / "env.sh").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    job = subprocess.run(
        ["sbatch", "--parsable", f"--output={folder}/%A-%a.log", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "IMGLISH_ENV": str(folder / "env.sh")},
        check=True,
        text=True,
        capture_output=True,
        timeout=60,
    ).stdout.strip()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while subprocess.run(["squeue", "-h", "-j", job], check=False, text=True, capture_output=True).stdout.strip():
        assert time.monotonic() < deadline, f"job {job} does not end"
        time.sleep(0.5)
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


def test_the_tasks_of_an_array_write_the_shards_and_the_index_that_one_process_writes(tmp_path: Path) -> None:
    options = ["pair", "scenes:40", tmp_path / "array", "--samples-per-shard", 3]
    array = ["--array=3-6", "--cpus-per-task=2", "--mem=1000", "slurm/write_shards.sbatch"]
    output = submit_and_wait(tmp_path, *array, *options)
    write_shards(ShardOptions("pair", "scenes:40", tmp_path / "whole", samples_per_shard=3))
    assert read_index(tmp_path / "array").fingerprint == read_index(tmp_path / "whole").fingerprint, output
    assert "40 samples in 14 shards" in output and "error" not in output
