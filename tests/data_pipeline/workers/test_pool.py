"""Worker processes end with the command that started them."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.launch import ROOT


def test_writers_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    arguments = ["pair", "scenes:100000", str(tmp_path / "out"), "--samples-per-shard", "500", "--num-workers", "2"]
    process = subprocess.Popen([sys.executable, "-m", "data_pipeline.write_shards", *arguments], cwd=ROOT)
    while len(workers := psutil.Process(process.pid).children()) < 2 or not list((tmp_path / "out").glob("*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait(timeout=60)
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) == 2 and not alive
