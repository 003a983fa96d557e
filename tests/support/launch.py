"""Start ranks: real processes of a module, as a launcher starts them. Tests start processes only with this."""

import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import numpy as np

from tests.support.ports import reserved_port

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 240
ON_CPU = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
"""Environment variables for ranks on a CPU; torch, DeepSpeed and our kernels read them when they are imported."""
ON_GPU = {"DS_ACCELERATOR": "cuda", "TRITON_INTERPRET": "0"}
"""Environment variables for ranks on this machine's GPUs, rank 0 on the first one."""
LAUNCHED = Counter[str]()
"""Numbers of `launches` and `processes` of this test process; printed after the last test."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.support.preload"])


@dataclass(frozen=True)
class Ended:
    """Exit codes and output of ranks that have ended, by rank."""

    exit_codes: list[int]
    stdout: list[str]
    stderr: list[str]


class RankProcess:
    """A running rank, forked from a process that has already imported torch and DeepSpeed, which takes seconds."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str], cwd: Path, folder: Path):
        self.stdout, self.stderr = folder / f"{environment['RANK']}.out", folder / f"{environment['RANK']}.err"
        outputs = str(self.stdout), str(self.stderr)
        self._process = _server.Process(target=_begin, args=(module, arguments, environment, str(cwd), *outputs))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the rank runs."""
        return self._process.exitcode

    def wait(self, timeout_seconds: float) -> None:
        self._process.join(timeout_seconds)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class FreshProcess(RankProcess):
    """A running rank in an interpreter of its own."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str], cwd: Path, folder: Path):
        self.stdout, self.stderr = folder / f"{environment['RANK']}.out", folder / f"{environment['RANK']}.err"
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            command = [sys.executable, "-m", module, *arguments]
            self._popen = subprocess.Popen(command, env=environment, cwd=cwd, stdout=out, stderr=err)
        self.pid = self._popen.pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def wait(self, timeout_seconds: float) -> None:
        self._popen.wait(timeout_seconds)


def run_ranks(
    num_ranks: int,
    module: str,
    arguments: Sequence[object],
    *,
    cwd: Path = ROOT,
    timeout_seconds: float = TIMEOUT_SECONDS,
    while_running: Callable[[list[RankProcess]], None] | None = None,
    environment: dict[str, str] | None = None,
    fresh: bool = False,
    on_gpu: bool = False,
) -> Ended:
    """Run `python -m module arguments` on `num_ranks` ranks and wait for all of them.

    while_running: called once with the processes. A rank that is still alive timeout_seconds after the start is killed
    and fails the test. fresh: start interpreters that have imported nothing yet, as a user does; seconds slower, and
    needed by modules that start a pool of processes. on_gpu: ranks on GPUs instead of CPUs, always fresh: the process
    that others are forked from has imported torch and DeepSpeed without a GPU.
    """
    LAUNCHED.update(launches=1, processes=num_ranks)
    fresh |= on_gpu
    with reserved_port() as port, tempfile.TemporaryDirectory() as folder:
        shared = {
            **os.environ,
            **(ON_GPU if on_gpu else ON_CPU),
            "WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "PYTHONPATH": python_path(),
            **(environment or {}),
        }
        if not fresh:
            _start_server()
        kind = FreshProcess if fresh else RankProcess
        environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
        processes = [kind(module, [*map(str, arguments)], own, cwd, Path(folder)) for own in environments]
        exit_codes = _wait(processes, timeout_seconds, while_running)
        outputs = [(process.stdout.read_text(), process.stderr.read_text()) for process in processes]
    assert None not in exit_codes, f"ranks do not end: {exit_codes}\n{outputs}"
    return Ended([code for code in exit_codes if code is not None], [o for o, _ in outputs], [e for _, e in outputs])


def python_path(*folders: Path) -> str:
    """Return a PYTHONPATH of the folders and the project, before that of this process: packages may be there."""
    return os.pathsep.join([*map(str, folders), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _wait(
    processes: list[RankProcess],
    timeout_seconds: float,
    while_running: Callable[[list[RankProcess]], None] | None,
) -> list[int | None]:
    """Return the exit codes, None for ranks that had to be killed."""
    deadline = time.monotonic() + timeout_seconds
    try:
        if while_running is not None:
            while_running(processes)
        for process in processes:
            process.wait(max(1.0, deadline - time.monotonic()))
        return [process.poll() for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)


def _start_server() -> None:
    """Start the process that ranks are forked from, with the environment that its imports read."""
    before = dict(os.environ)
    os.environ.update(ON_CPU)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _begin(module: str, arguments: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """Run the module in the forked process."""
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    random.seed()  # else ranks would share one random state and hide dependence on it
    np.random.seed()
    sys.argv = [module, *arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module is imported already
        runpy.run_module(module, run_name="__main__", alter_sys=True)
