"""Fixtures that several test files share."""

import os
import random
from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined; programs then run one by one, in numpy

from tests.support.launch import run_ranks
from tests.support.tiny_run import TinyData, write_tiny_data

# the same examples on every machine, however slow it is
hypothesis.settings.register_profile("imglish", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("imglish")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Begin every test with the same random numbers, whatever ran before it in the process."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Shards and tokenizers for runs of a few steps. Read only: tests that damage them take a copy."""
    folder: Path = tmp_path_factory.mktemp("tiny_data")
    return write_tiny_data(folder)


@pytest.fixture(scope="session")
def two_ranks(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of eight steps on two ranks, with three experts and shared attention. Read only."""
    run_dir: Path = tmp_path_factory.mktemp("runs") / "two_ranks"
    ended = run_ranks(2, "pretrain.train", ["demo", *tiny_data.overrides(run_dir)], fresh=True)
    assert ended.exit_codes == [0, 0], ended.stderr
    return run_dir
