"""Jobs on the cluster that cluster.sh starts."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.launch import ON_CPU, ROOT

TIMEOUT_SECONDS = 240
NODES = ("imnode1", "imnode2")
NUM_STEPS = 24
"""Number of steps of the runs there."""


@dataclass(frozen=True)
class Cluster:
    """A Slurm with two nodes; folder: its state."""

    folder: Path

    def run(self, *command: object) -> str:
        """Run a command of Slurm and return its output."""
        return subprocess.run(
            list(map(str, command)),
            cwd=ROOT,
            env=self.environment,
            check=True,
            text=True,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
        ).stdout.strip()

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "IMGLISH"))}
        return {**own, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def submit(self, folder: Path, *arguments: object, **environment: str) -> "Job":
        """Submit a script from the checkout, with the job's log and state in the folder."""
        env_file = folder / "env.sh"
        # the nodes' own interface: the job must not need the rest of the machine
        env_file.write_text(f"export IMGLISH_RUNTIME=venv:{sys.prefix} GLOO_SOCKET_IFNAME=eth0\n")
        site = {"IMGLISH_ENV": str(env_file), "IMGLISH_STATE_DIR": str(folder), **ON_CPU}
        settings = [f"{name}={value}" for name, value in {**site, **environment}.items()]
        options = ["--parsable", f"--output={folder}/%A-%a.log"]
        return Job(self, folder, self.run("env", *settings, "sbatch", *options, *arguments))

    def processes(self, node: str, *words: str) -> list[psutil.Process]:
        """Return the processes of a node whose command line begins with these words."""
        found = []
        for number in self.run("ip", "netns", "pids", node).split():
            try:
                process = psutil.Process(int(number))
                command = process.cmdline()
            except psutil.Error:  # it has ended
                continue
            if command[: len(words)] == list(words):
                found.append(process)
        return found

    def ranks(self, node: str) -> list[psutil.Process]:
        return self.processes(node, "python", "-u", "-m", "pretrain.train")


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    cluster: Cluster
    folder: Path
    number: str

    @property
    def output(self) -> str:
        """Log of the job, or logs of the tasks of an array."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"{self.number}-*.log")))

    def has_printed(self, words: str) -> bool:
        return words in self.output

    @property
    def left_behind(self) -> list[str]:
        """Names of the job's files that outlive a requeue."""
        return [path.name for path in self.folder.glob(f"imglish-{self.number}.*")]

    def field(self, name: str) -> str:
        """Return a field of the job as Slurm reports it, such as JobState."""
        found = re.search(rf"\b{name}=(\S+)", self.cluster.run("scontrol", "show", "job", "--oneliner", self.number))
        assert found
        return found[1]

    def wait(self, condition: Callable[[], bool], pause_seconds: float = 0.02) -> None:
        """Wait until a condition holds; fail if it does not within TIMEOUT_SECONDS."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"job {self.number} is {self.field('JobState')}:\n{self.output}"
            time.sleep(pause_seconds)

    def wait_for_its_end(self) -> str:
        """Wait for the end of the job; return its final state, for an array that of the first task."""
        # a query of Slurm starts a process, and the ranks need the cores
        self.wait(lambda: not self.cluster.run("squeue", "--noheader", "--jobs", self.number), pause_seconds=0.3)
        return self.field("JobState")

    def cancel(self) -> None:
        self.cluster.run("scancel", self.number)


def kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        process.send_signal(signal.SIGKILL)
