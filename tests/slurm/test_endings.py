"""Reactions of slurm/pretrain.sbatch to every ending of its ranks. No Slurm: srun writes the files of the ranks."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pretrain.survival.stop import EXIT_MANY_SKIPPED
from tests.support.launch import ROOT

SRUN = """#!/bin/bash
cat "$IMGLISH_STATUS_FILE" >before 2>/dev/null
[ ! -s left ] || cp left "$IMGLISH_STATUS_FILE"
exit "$CODE"
"""
SCONTROL = """#!/bin/bash
case $1 in show) echo node1 ;; requeue) echo "$2" >>requeued ;; esac
"""
LOST = 137


@dataclass
class FakeJob:
    """A job that is started several times."""

    folder: Path
    num_starts: int = 0
    codes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "bin").mkdir()
        for name, script in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (self.folder / "bin" / name).write_text(script)
            (self.folder / "bin" / name).chmod(0o755)
        (self.folder / "slurm").symlink_to(ROOT / "slurm")
        (self.folder / "env.sh").write_text("IMGLISH_RUNTIME=\n")

    def start(self, left: str, code: int) -> str:
        """Start the job and return its output; left: the line in the status file when srun ends with the code."""
        (self.folder / "left").write_text(left)
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "IMGLISH_ENV": str(self.folder / "env.sh"),
            "CODE": str(code),
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node1",
            "SLURM_NTASKS": "2",
            "SLURM_JOB_NUM_NODES": "1",
        }
        if self.num_starts:  # Slurm sets it only after a requeue
            environment["SLURM_RESTART_COUNT"] = str(self.num_starts)
        self.num_starts += 1
        ended = subprocess.run(
            ["bash", ROOT / "slurm" / "pretrain.sbatch", "recipe"],
            env=environment,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.codes.append(ended.returncode)
        return ended.stdout

    @property
    def num_requeues(self) -> int:
        path = self.folder / "requeued"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("imglish-7*"))


@pytest.fixture
def job(tmp_path: Path) -> FakeJob:
    return FakeJob(tmp_path)


@pytest.mark.parametrize(
    ("left", "code", "exit_code", "said"),
    [
        ("8 complete 4\n", 0, 0, "complete at step 8"),
        ("8 complete 4\n", LOST, 0, "complete at step 8"),
        ("8 many_skipped 4\n", 0, EXIT_MANY_SKIPPED, "complete at step 8, but too many steps were skipped"),
        ("5 stopped_by_file 4\n", 0, 0, "stopped by the file and saved at step 5; the job ends"),
        ("0 mistake 0\n", 0, 2, ""),
        ("0 mistake 0\n", 2, 2, ""),
        ("", 0, 0, ""),  # --help
    ],
)
def test_a_final_ending(job: FakeJob, left: str, code: int, exit_code: int, said: str) -> None:
    assert said in job.start(left, code)
    assert (job.codes, job.num_requeues, job.files) == ([exit_code], 0, [])


@pytest.mark.parametrize(
    ("left", "code", "said"),
    [
        ("5 stopped 3\n", 0, "stopped by a signal and saved (newest checkpoint: 5); back into the queue"),
        (
            "5 running 3\n",
            71,
            "the ranks did not finish; srun ended with 71 (newest checkpoint: 5); back into the queue",
        ),
        (
            "5 running 3\n",
            0,
            "the ranks did not finish; srun ended with 0 (newest checkpoint: 5); back into the queue",
        ),
        ("", LOST, "the ranks did not finish; srun ended with 137 (newest checkpoint: 0); back into the queue"),
    ],
)
def test_an_ending_that_requeues_the_job(job: FakeJob, left: str, code: int, said: str) -> None:
    assert said in job.start(left, code)
    assert (job.codes, job.num_requeues) == ([0], 1)
    assert "imglish-7.starts" in job.files


def test_a_start_that_saves_a_step_resets_the_count(job: FakeJob) -> None:
    for left in ("", "3 running 0\n", "3 running 3\n", "4 running 3\n", "4 running 4\n"):
        assert "back into the queue" in job.start(left, LOST)
    assert "2 starts in a row saved no step (newest checkpoint: 4)" in job.start("4 running 4\n", LOST)
    assert job.codes == [0, 0, 0, 0, 0, 1] and job.num_requeues == 5
    assert job.files == []


@pytest.mark.parametrize("left", ["", "0 running 0\n", "500 running 500\n"])
def test_two_starts_that_save_no_step_end_a_job_that_is_new_or_resumed(job: FakeJob, left: str) -> None:
    assert "back into the queue" in job.start(left, LOST)
    assert "2 starts in a row saved no step" in job.start(left, LOST)
    assert job.codes == [0, 1] and job.num_requeues == 1


def test_the_status_of_the_last_start_is_not_taken_for_that_of_this_one(job: FakeJob) -> None:
    job.start("5 stopped 3\n", 0)
    said = job.start("", LOST)  # dies before it writes
    assert (job.folder / "before").read_text() == "5 started 5\n"
    assert "the ranks did not finish" in said and "stopped by a signal" not in said


def test_files_of_another_job_with_the_same_number_are_ignored(job: FakeJob) -> None:
    (job.folder / "imglish-7.starts").write_text("1\n")
    (job.folder / "imglish-7.status").write_text("9 running 9\n")
    assert "newest checkpoint: 2" in job.start("2 running 2\n", LOST)
    assert job.codes == [0]


DAMAGED = ["\n", "complete\n", "x complete 4\n", "8 complete\n", "8 complete 4 9\n", "\0" * 4096, "-1 complete 4\n"]


@pytest.mark.parametrize("left", DAMAGED)
def test_a_damaged_status_file_is_ignored(job: FakeJob, left: str) -> None:
    said = job.start(left, LOST)
    assert f"warning: {job.folder / 'imglish-7.status'} is damaged and is ignored" in said
    assert "srun ended with 137 (newest checkpoint: 0); back into the queue" in said and "expected" not in said
    assert (job.codes, job.num_requeues) == ([0], 1)


@pytest.mark.parametrize("left", ["", "\n", "many\n", "08\n", "\0" * 4096])
def test_a_damaged_count_of_starts_is_reset(job: FakeJob, left: str) -> None:
    job.start("", LOST)
    (job.folder / "imglish-7.starts").write_text(left)
    said = job.start("", LOST)
    assert "2 starts in a row saved no step (newest checkpoint: 0); the job ends" in said
    assert not any(words in said for words in ("expected", "unbound", "too great"))
    assert job.codes == [0, 1]
