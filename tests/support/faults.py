"""Runs of two ranks that are broken on purpose, and checks of them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.run_log import read_log
from tests.support.launch import TIMEOUT_SECONDS, Ended, run_ranks
from tests.support.tiny_run import TinyData

SILENT_SECONDS = 8.0


def arguments_of(data: TinyData, run_dir: Path) -> list[object]:
    """Return arguments of a run of eight steps that saves after every second one."""
    times = ["--silent-rank-seconds", SILENT_SECONDS, "--keep-checkpoints", 2]
    return ["demo", *data.overrides(run_dir), "--save-every-steps", 2, *times]


def broken(
    data: TinyData, run_dir: Path, *extra: object, while_running: Any = None, output: str = "", **fault: Any
) -> Ended:
    """Run with a fault (faulty_ranks.py); output: a file that replaces standard output and error."""
    return run_ranks(
        2,
        "tests.support.faulty_ranks",
        [*arguments_of(data, run_dir), *extra],
        environment={"FAULT": json.dumps(fault), "OUTPUT": output},
        while_running=while_running,
    )


def check_it_goes_on(data: TinyData, run_dir: Path, undisturbed: Path, *extra: object) -> None:
    """Start again; check that the whole run equals the undisturbed one to the bit and leaves no partial files."""
    ended = run_ranks(2, "pretrain.train", [*arguments_of(data, run_dir), *extra])
    assert ended.exit_codes == [0, 0], ended.stderr
    assert lines(run_dir) == lines(undisturbed)
    names = [path.name for path in sorted((run_dir / "checkpoints").iterdir())]
    assert names == ["step_00000006", "step_00000008"]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """Return the log without measured times."""
    names = ("step", "loss", "losses", "grad_norm", "lr", "samples_seen", "skipped", "keys")
    return [{name: record[name] for name in names} for record in read_log(run_dir)]


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint, 0 if there is none."""
    found = (run_dir / "checkpoints").glob("step_*/manifest.json")
    return max((int(p.parent.name[5:]) for p in found if "." not in p.parent.name), default=0)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def few_now(now: list[Any], slow: list[Any]) -> list[Any]:
    """Return pytest parameters: `now` run with make test, `slow` only with make test-slow."""
    return [*now, *(pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.slow) for c in slow)]
