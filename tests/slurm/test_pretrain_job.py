"""slurm/pretrain.sbatch on a real Slurm of two nodes: after any ending the job resumes with the losses of an
undisturbed run, to the bit, or it ends for good and reports why."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.run_log import LOG_NAME, read_log
from tests.slurm.cluster import NODES, NUM_STEPS, Cluster, Job, kill
from tests.support.tiny_run import TinyData

pytestmark = pytest.mark.slurm

AGAIN = "back into the queue"


def pretrain(cluster: Cluster, data: TinyData, folder: Path, *extra: object, **environment: str) -> Job:
    """Submit pretraining with one rank per node."""
    size = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    overrides = [*data.overrides(folder / "run"), "--num-steps", NUM_STEPS, "--save-every-steps", 3, *extra]
    return cluster.submit(folder, *size, "slurm/pretrain.sbatch", "demo", *overrides, **environment)


def losses(run_dir: Path) -> list[dict[str, Any]]:
    log = read_log(run_dir)
    assert [record["step"] for record in log] == list(range(NUM_STEPS))
    return [{name: record[name] for name in ("loss", "losses", "grad_norm", "keys")} for record in log]


def wait_for_steps(job: Job, num_steps: int) -> None:
    log = job.folder / "run" / LOG_NAME
    job.wait(lambda: log.exists() and len(log.read_text().splitlines()) >= num_steps)


def check_that_it_finished_in_two_starts(job: Job, undisturbed: Path) -> None:
    assert job.wait_for_its_end() == "COMPLETED", job.output
    assert job.field("Restarts") == "1"
    assert "start 1 of" in job.output and "start 2 of" in job.output and "run continues at step" in job.output
    assert f"complete at step {NUM_STEPS}" in job.output
    assert losses(job.folder / "run") == losses(undisturbed)
    assert job.left_behind == []


@pytest.mark.slow
def test_every_task_is_a_rank_and_sees_the_gpus_of_its_node(cluster: Cluster, tmp_path: Path) -> None:
    size = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=2", "--gres=gpu:2"]
    job = cluster.submit(tmp_path, *size, "slurm/pretrain.sbatch", "any", IMGLISH_MODULE="tests.slurm.show_rank")
    assert job.wait_for_its_end() == "COMPLETED", job.output
    shown = sorted(line for line in job.output.splitlines() if line.startswith("rank: "))
    shared = f"WORLD_SIZE=4 LOCAL_SIZE=2 MASTER_ADDR={NODES[0]} OMP_NUM_THREADS=2"
    assert shown == [
        f"rank: RANK={rank} LOCAL_RANK={rank % 2} {shared} SLURMD_NODENAME={NODES[rank // 2]} CUDA_VISIBLE_DEVICES=0,1"
        for rank in range(4)
    ]


def test_a_preempted_run_on_two_nodes_saves_and_resumes(
    cluster: Cluster, undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    job = pretrain(cluster, tiny_data, tmp_path)
    wait_for_steps(job, 4)
    assert [len(cluster.ranks(node)) for node in NODES] == [1, 1]
    cluster.run("scancel", "--signal=USR1", job.number)
    check_that_it_finished_in_two_starts(job, undisturbed)
    assert "run starts: 2 ranks on cpu" in job.output
    assert "stopped by a signal and saved" in job.output and AGAIN in job.output


def test_a_run_resumes_after_the_ranks_of_a_node_were_killed(
    cluster: Cluster, undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    job = pretrain(cluster, tiny_data, tmp_path)
    wait_for_steps(job, 5)
    kill(cluster.ranks(NODES[1]))
    check_that_it_finished_in_two_starts(job, undisturbed)
    assert f"rank 1 on {NODES[1]} died in" in job.output
    assert "the ranks did not finish" in job.output and AGAIN in job.output


@pytest.mark.slow
def test_a_run_resumes_after_a_node_was_set_down(
    cluster: Cluster, undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    job = pretrain(cluster, tiny_data, tmp_path)
    wait_for_steps(job, 5)
    cluster.run("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
    try:
        job.wait(lambda: job.field("JobState") == "PENDING")
    finally:
        cluster.run("scontrol", "update", f"nodename={NODES[1]}", "state=resume")
    check_that_it_finished_in_two_starts(job, undisturbed)
    assert "DUE TO NODE FAILURE" in job.output and AGAIN not in job.output  # Slurm requeued it


@pytest.mark.slow
def test_a_job_whose_script_was_killed_fails_and_another_resumes(
    cluster: Cluster, undisturbed: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    job = pretrain(cluster, tiny_data, tmp_path)
    wait_for_steps(job, 5)
    kill([p for p in cluster.processes(NODES[0]) if p.cmdline()[1:2] and p.cmdline()[1].endswith("/slurm_script")])
    assert job.wait_for_its_end() == "FAILED"
    assert job.field("Restarts") == "0" and "complete" not in job.output
    job.wait(lambda: not any(cluster.ranks(node) for node in NODES))
    again = pretrain(cluster, tiny_data, tmp_path)
    assert again.wait_for_its_end() == "COMPLETED", again.output
    assert "run continues at step" in again.output
    assert losses(tmp_path / "run") == losses(undisturbed)


@pytest.mark.slow
def test_a_cancelled_job_and_one_that_a_file_stopped_end_for_good(
    cluster: Cluster, tiny_data: TinyData, tmp_path: Path
) -> None:
    cancelled = pretrain(cluster, tiny_data, tmp_path)
    wait_for_steps(cancelled, 4)
    cancelled.cancel()
    assert cancelled.wait_for_its_end() == "CANCELLED"
    assert cancelled.field("Restarts") == "0" and AGAIN not in cancelled.output

    done = len(read_log(tmp_path / "run"))
    stopped = pretrain(cluster, tiny_data, tmp_path)
    stopped.wait(lambda: "run continues at step" in stopped.output)
    (tmp_path / "run" / "stop").touch()
    assert stopped.wait_for_its_end() == "COMPLETED", stopped.output
    assert stopped.field("Restarts") == "0" and AGAIN not in stopped.output
    assert "stopped by the file and saved at step" in stopped.output
    assert 3 <= len(read_log(tmp_path / "run")) < NUM_STEPS and done >= 4
    assert stopped.left_behind == []


def test_a_mistake_ends_the_job_for_good(cluster: Cluster, tiny_data: TinyData, tmp_path: Path) -> None:
    job = pretrain(cluster, tiny_data, tmp_path, "--no-such-option", 1)
    assert job.wait_for_its_end() == "FAILED", job.output
    assert job.field("ExitCode") == "2:0" and job.field("Restarts") == "0"
    assert job.output.count("\nerror: ") == 1 and "no-such-option" in job.output
    assert job.left_behind == []


def test_two_starts_that_save_nothing_end_the_job(cluster: Cluster, tiny_data: TinyData, tmp_path: Path) -> None:
    job = pretrain(cluster, tiny_data, tmp_path, IMGLISH_MODULE="pretrain.no_such_module")
    assert job.wait_for_its_end() == "FAILED", job.output
    assert job.field("ExitCode") == "1:0" and job.field("Restarts") == "1"
    assert job.output.count("No module named pretrain.no_such_module") == 4  # two ranks, two starts
    assert "error: 2 starts in a row saved no step (newest checkpoint: 0); the job ends" in job.output
    assert job.left_behind == []


@pytest.mark.slow
def test_starts_that_slurm_ended_count_as_well(cluster: Cluster, tiny_data: TinyData, tmp_path: Path) -> None:
    job = pretrain(cluster, tiny_data, tmp_path)
    for beginning in ("start 1 of", "start 2 of"):
        job.wait(partial(job.has_printed, beginning))
        cluster.run("scontrol", "requeue", job.number)
    assert job.wait_for_its_end() == "FAILED", job.output
    assert job.field("ExitCode") == "1:0" and job.field("Restarts") == "2"
    assert "start 3" not in job.output and "2 starts in a row saved no step" in job.output
