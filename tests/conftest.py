"""Fixtures for several test files."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined; programs then run one by one, in numpy

from tests.support.launch import LAUNCHED, run_ranks
from tests.support.shared_folders import shared_folder
from tests.support.tiny_run import TinyData, write_tiny_data

# the same examples on every machine, no matter how slow
hypothesis.settings.register_profile("imglish", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("imglish")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Seed every test, so that its random numbers do not depend on earlier tests."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyData]:
    """Yield shards and tokenizers for runs of a few steps. Read only: a test that damages them makes a copy."""
    with shared_folder(tmp_path_factory, "tiny_data", write_tiny_data) as folder:
        yield TinyData(folder)


@pytest.fixture(scope="session")
def two_ranks(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield an undisturbed run of eight steps on two ranks, with three experts and shared attention. Read only."""

    def train(run_dir: Path) -> None:
        ended = run_ranks(2, "pretrain.train", ["demo", *tiny_data.overrides(run_dir)])
        assert ended.exit_codes == [0, 0], ended.stderr

    with shared_folder(tmp_path_factory, "two_ranks", train) as run_dir:
        yield run_dir


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a pytest-xdist worker to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["launched"] = dict(LAUNCHED)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    LAUNCHED.update(getattr(node, "workeroutput", {}).get("launched", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"launched: {LAUNCHED['launches']} times, {LAUNCHED['processes']} processes")
