"""The one helper that starts ranks: real processes of a module, as a launcher would start them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMEOUT_SECONDS = 240


@dataclass(frozen=True)
class Ended:
    """What the ranks left: exit codes and what they printed, by rank."""

    exit_codes: list[int]
    stdout: list[str]
    stderr: list[str]


def run_ranks(
    num_ranks: int,
    module: str,
    arguments: Sequence[object],
    *,
    cwd: Path = ROOT,
    timeout_seconds: float = TIMEOUT_SECONDS,
    while_running: Callable[[list[subprocess.Popen[str]]], None] | None = None,
) -> Ended:
    """Run `python -m module arguments` on so many CPU ranks and wait for all. while_running: called once with them.

    A rank that is still alive timeout_seconds later is killed and fails the test.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", module, *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(num_ranks)
    ]
    deadline = time.monotonic() + timeout_seconds
    try:
        if while_running is not None:
            while_running(processes)
        outputs = [process.communicate(timeout=max(1.0, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return Ended([process.returncode for process in processes], [o for o, _ in outputs], [e for _, e in outputs])
