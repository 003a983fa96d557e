"""Mistakes in a command line, found in the test's own process: the checks before training need no other rank."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from pretrain.config.command_line import parse_recipe
from pretrain.jobs.job import Job
from pretrain.run.start import prepare


def option_mistake(
    recipes: dict[str, Callable[[], Any]], arguments: Sequence[object], capsys: pytest.CaptureFixture[str]
) -> str:
    """Return the only line that parsing the arguments prints, on standard error; fails if they are valid."""
    with pytest.raises(SystemExit) as ended:
        parse_recipe(recipes, "pretrain.train", [*map(str, arguments)])
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert ended.value.code == 2 and printed.out == "" and line.startswith("error: ")
    return line


def preparation_mistake(
    kind: type[Job[Any]], recipes: dict[str, Callable[[], Any]], arguments: Sequence[object]
) -> str:
    """Return the error that ends a run of one rank before its engine is built; fails if there is none."""
    config = parse_recipe(recipes, "pretrain.train", [*map(str, arguments)])
    with only_rank(), pytest.raises((ValueError, OSError)) as refused:
        prepare(kind(config, torch.device("cpu")))
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


@contextmanager
def only_rank(backend: str = "gloo") -> Iterator[None]:
    """Run the block in a process group of this process alone."""
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def only_rank_without_threads() -> Iterator[None]:
    """Run the block in a process group of this process alone, whose collectives leave their outputs as they are.

    The threads of gloo let go of the tensors of a collective some time after it: a peak of memory would depend on when.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore  # importing it registers the backend

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
