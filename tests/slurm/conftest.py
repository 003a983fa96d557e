"""A Slurm of two nodes on this machine, for the session."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import NUM_STEPS, Cluster
from tests.support.launch import run_ranks
from tests.support.tiny_run import TinyData

SCRIPT = Path(__file__).with_name("cluster.sh")
CANNOT = 77


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a cluster; skip, with the reason, if this machine cannot have one."""
    folder: Path = tmp_path_factory.mktemp("cluster")
    up = subprocess.run([SCRIPT, "up", folder], check=False, text=True, stderr=subprocess.PIPE)
    try:
        if up.returncode == CANNOT:
            pytest.skip(up.stderr.strip())
        assert up.returncode == 0, up.stderr
        yield Cluster(folder)
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on two ranks without Slurm. Read only."""
    run_dir: Path = tmp_path_factory.mktemp("runs") / "undisturbed"
    ended = run_ranks(2, "pretrain.train", ["demo", *tiny_data.overrides(run_dir), "--num-steps", NUM_STEPS])
    assert ended.exit_codes == [0, 0], ended.stderr
    return run_dir
