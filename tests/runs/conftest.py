"""Runs shared by several test files of this folder, and HTTP servers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import arguments_of
from tests.support.http_servers import hostile, served, server
from tests.support.launch import run_ranks
from tests.support.shared_folders import shared_folder
from tests.support.tiny_run import TinyData

__all__ = ["hostile", "served", "server"]


@pytest.fixture(scope="session")
def saved_twice(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a run of two ranks with checkpoints of steps 2 and 4 and a log of eight steps. Read only."""

    def train(run_dir: Path) -> None:
        ended = run_ranks(2, "pretrain.train", [*arguments_of(tiny_data, run_dir), "--keep-checkpoints", 4])
        assert ended.exit_codes == [0, 0], ended.stderr
        for step in (6, 8):
            shutil.rmtree(run_dir / "checkpoints" / f"step_{step:08d}")

    with shared_folder(tmp_path_factory, "saved_twice", train) as run_dir:
        yield run_dir


@pytest.fixture
def saved_run(saved_twice: Path, tmp_path: Path) -> Path:
    """Return a copy of that run, for tests that resume or damage it."""
    run_dir = tmp_path / "run"
    shutil.copytree(saved_twice, run_dir)
    return run_dir
