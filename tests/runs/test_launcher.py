"""Effects of signals and of the ranks' exit codes on DeepSpeed's launcher, as documented in docs/running.md.

A runner, which is the command `deepspeed`, starts a launcher on each node, which starts the ranks.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from pretrain.demo import ranks_of
from pretrain.run.run_log import LOG_NAME, read_log
from pretrain.survival.stop import EXIT_RANK_LOST
from tests.support.faults import arguments_of, newest_step, wait_for
from tests.support.launch import ON_CPU, ROOT, TIMEOUT_SECONDS, python_path
from tests.support.ports import reserved_port
from tests.support.tiny_run import TinyData

pytestmark = pytest.mark.slow  # each starts four interpreters
DOCUMENTED = ROOT / "docs" / "running.md"
GRACE_SECONDS = 30
"""Seconds after SIGTERM at which the launcher of a node kills its ranks."""


@dataclass
class Launched:
    """A run under `deepspeed`, in its own process group as if started by a shell."""

    runner: subprocess.Popen[bytes]
    run_dir: Path
    output: Path

    @property
    def ranks(self) -> list[psutil.Process]:
        return [psutil.Process(rank) for rank in ranks_of(self.runner.pid)]

    @property
    def said(self) -> str:
        return self.output.read_text()

    def code(self) -> int:
        """Wait for the command and return its exit code as a shell shows it."""
        code = self.runner.wait(TIMEOUT_SECONDS)
        return code if code >= 0 else 128 - code


@pytest.fixture
def port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture
def launched(request: pytest.FixtureRequest, tiny_data: TinyData, tmp_path: Path, port: int) -> Iterator[Launched]:
    """Yield a run whose two ranks have logged two of many steps; param: a fault of tests/support/faulty_ranks.py."""
    fault, run_dir, output = getattr(request, "param", None), tmp_path / "run", tmp_path / "output"
    module = "tests.support.faulty_ranks" if fault else "pretrain.train"
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--log_level", "critical", "--num_accelerators", "2"]
    command += ["--master_port", str(port), "--module", module, *map(str, arguments_of(tiny_data, run_dir))]
    command += ["--num-steps", "100000", "--save-every-steps", "100000", "--silent-rank-seconds", "600"]
    environment = {**os.environ, **ON_CPU, "PYTHONPATH": python_path(), "FAULT": json.dumps(fault), "OUTPUT": ""}
    with output.open("w") as file:
        runner = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where pytest runs in background
        )  # fmt: skip
    try:
        wait_for(lambda: (run_dir / LOG_NAME).exists() and len(read_log(run_dir)) >= 2)
        yield Launched(runner, run_dir, output)
    finally:
        end_session(runner)


def end_session(runner: subprocess.Popen[bytes]) -> None:
    """Kill a command and all processes that it has started, which are in its session."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == runner.pid:
                process.kill()
    runner.wait()


def wait_for_the_end_of(ranks: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(ranks, timeout=TIMEOUT_SECONDS)
    assert not alive


def check_saved(launched: Launched) -> None:
    """Check that the ranks stopped on request and that the checkpoint is of the last logged step."""
    assert "saved; rerun the same command to resume" in launched.said
    assert newest_step(launched.run_dir) == len(read_log(launched.run_dir)) >= 2


def documented_code(action: str) -> int:
    """Return the exit code of `deepspeed` after an action according to docs/running.md."""
    page = DOCUMENTED.read_text()
    (code,) = re.findall(rf"^\| {re.escape(action)} \|.*\| (\d+) \|$", page, re.MULTILINE)
    return int(code)


def test_ctrl_c_ends_deepspeed_at_once_and_the_ranks_save_after_it(launched: Launched) -> None:
    ranks = launched.ranks
    os.killpg(launched.runner.pid, signal.SIGINT)
    assert launched.code() == documented_code("Ctrl-C") == 130
    assert "KeyboardInterrupt" in launched.said
    wait_for_the_end_of(ranks)
    check_saved(launched)


def test_sigterm_to_deepspeed_leaves_the_ranks_which_a_signal_to_the_lock_holder_ends(launched: Launched) -> None:
    ranks = launched.ranks
    launched.runner.terminate()
    assert launched.code() == documented_code("SIGTERM to `deepspeed`") == 143
    done = len(read_log(launched.run_dir))
    wait_for(lambda: len(read_log(launched.run_dir)) > done + 5)
    main_rank = int((launched.run_dir / "lock").read_text().split()[1])  # docs/running.md: kill -USR1
    assert main_rank in [rank.pid for rank in ranks]
    os.kill(main_rank, signal.SIGUSR1)
    wait_for_the_end_of(ranks)
    check_saved(launched)


def test_sigterm_to_the_launcher_of_a_node_lets_the_ranks_save(launched: Launched) -> None:
    ranks = launched.ranks
    launcher = ranks[0].parent()
    assert launcher is not None
    launcher.terminate()
    assert launched.code() == documented_code("SIGTERM to the launcher of a node") == 1
    wait_for_the_end_of(ranks)
    check_saved(launched)


@pytest.mark.parametrize("launched", [{"point": "forward", "rank": None, "step": 4, "action": "hang"}], indirect=True)
def test_the_launcher_kills_ranks_whose_step_takes_longer_than_30_seconds(launched: Launched) -> None:
    ranks = launched.ranks
    wait_for(lambda: len(read_log(launched.run_dir)) >= 3)
    launcher = ranks[0].parent()
    assert launcher is not None
    start = time.monotonic()
    launcher.terminate()
    assert launched.code() == 1
    assert time.monotonic() - start > GRACE_SECONDS - 1
    assert not any(rank.is_running() for rank in ranks)
    assert not list((launched.run_dir / "checkpoints").glob("step_*"))
    assert f"kills them after {GRACE_SECONDS} seconds" in " ".join(DOCUMENTED.read_text().split())


def test_a_stop_by_a_signal_to_one_rank_gives_the_code_of_the_ranks(launched: Launched) -> None:
    launched.ranks[1].send_signal(signal.SIGUSR1)
    assert launched.code() == documented_code("SIGUSR1 or SIGTERM to a rank") == 75
    check_saved(launched)


def test_a_rank_that_is_killed_gives_247_or_71_whichever_the_launcher_sees_first(launched: Launched) -> None:
    launched.ranks[1].kill()
    assert launched.code() in (247, EXIT_RANK_LOST)
    assert "error: rank 1" in launched.said
    assert "`deepspeed` gives 247, or 71" in " ".join(DOCUMENTED.read_text().split())


def test_a_launcher_that_is_killed_leaves_ranks_that_save_and_deepspeed_gives_0(launched: Launched) -> None:
    ranks = launched.ranks
    launcher = ranks[0].parent()
    assert launcher is not None
    launcher.kill()
    assert launched.code() == 0
    wait_for_the_end_of(ranks)
    check_saved(launched)
    assert "is complete" not in launched.said
