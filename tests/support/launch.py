"""The one helper that starts ranks: real processes of a module, as a launcher would start them."""

import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 240
ON_CPU = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
"""What torch and DeepSpeed read when they are imported."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.support.preload"])


@dataclass(frozen=True)
class Ended:
    """What the ranks left: exit codes and what they printed, by rank."""

    exit_codes: list[int]
    stdout: list[str]
    stderr: list[str]


class RankProcess:
    """A rank that runs, forked from a process that has imported what takes seconds to import."""

    def __init__(self, module: str, arguments: Sequence[str], environment: dict[str, str], cwd: Path, folder: Path):
        self.stdout, self.stderr = folder / f"{environment['RANK']}.out", folder / f"{environment['RANK']}.err"
        outputs = str(self.stdout), str(self.stderr)
        self._process = _server.Process(target=_begin, args=(module, arguments, environment, str(cwd), *outputs))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_seconds: float) -> None:
        self._process.join(timeout_seconds)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class FreshProcess(RankProcess):
    """A rank in an interpreter of its own."""

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
) -> Ended:
    """Run `python -m module arguments` on so many CPU ranks and wait for all. while_running: called once with them.

    A rank that is still alive timeout_seconds later is killed and fails the test. fresh: in interpreters that have
    imported nothing yet, as in real life, seconds slower; what starts a pool of processes needs it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        **ON_CPU,
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        **(environment or {}),
    }
    kind = FreshProcess if fresh else RankProcess
    deadline = time.monotonic() + timeout_seconds
    with tempfile.TemporaryDirectory() as folder:
        if not fresh:
            _start_server()
        environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]
        processes = [kind(module, [*map(str, arguments)], own, cwd, Path(folder)) for own in environments]
        try:
            if while_running is not None:
                while_running(processes)
            for process in processes:
                process.wait(max(1.0, deadline - time.monotonic()))
            exit_codes = [process.poll() for process in processes]
            outputs = [(process.stdout.read_text(), process.stderr.read_text()) for process in processes]
        finally:
            for process in processes:
                process.send_signal(signal.SIGKILL)
    assert None not in exit_codes, f"ranks do not end: {exit_codes}\n{outputs}"
    return Ended([code for code in exit_codes if code is not None], [o for o, _ in outputs], [e for _, e in outputs])


def _start_server() -> None:
    """The process that ranks are forked from, with the environment that its imports read."""
    before = dict(os.environ)
    os.environ.update(ON_CPU)
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _begin(module: str, arguments: list[str], environment: dict[str, str], cwd: str, stdout: str, stderr: str) -> None:
    """In the forked process."""
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    random.seed()  # else all ranks would have the same random state, and what depends on it would not show
    np.random.seed()
    sys.argv = [module, *arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module is imported already
        runpy.run_module(module, run_name="__main__", alter_sys=True)
