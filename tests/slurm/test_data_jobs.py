"""The job scripts other than pretrain.sbatch, on a real Slurm."""

from pathlib import Path

import pytest

from data_pipeline.shards.index import read_index
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.slurm


def test_the_tasks_of_an_array_write_the_shards_and_the_index_that_one_process_writes(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = ["pair", "scenes:40", tmp_path / "array", "--samples-per-shard", 3]
    job = cluster.submit(tmp_path, "--array=3-6", "--cpus-per-task=2", "slurm/write_shards.sbatch", *options)
    assert job.wait_for_its_end() == "COMPLETED", job.output
    write_shards(ShardOptions("pair", "scenes:40", tmp_path / "whole", samples_per_shard=3))
    assert read_index(tmp_path / "array").fingerprint == read_index(tmp_path / "whole").fingerprint, job.output
    assert "40 samples in 14 shards" in job.output and "error" not in job.output


def test_a_finished_run_is_converted(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    job = cluster.submit(tmp_path, "slurm/convert.sbatch", undisturbed, out, "--role", "dual")
    assert job.wait_for_its_end() == "COMPLETED", job.output
    assert "largest difference" in job.output
    assert (out / "beit3_dual.pth").is_file()


def test_a_mistake_in_the_runtime_is_reported_and_nothing_starts(cluster: Cluster, tmp_path: Path) -> None:
    mistaken = tmp_path / "mistaken.sh"
    mistaken.write_text("IMGLISH_RUNTIME=venv:nowhere\n")
    job = cluster.submit(tmp_path, "slurm/convert.sbatch", "run", "out", IMGLISH_ENV=str(mistaken))
    assert job.wait_for_its_end() == "FAILED"
    assert job.field("ExitCode") == "2:0"
    assert job.output == "error: venv:nowhere of IMGLISH_RUNTIME is not a virtual environment on imnode1\n"
