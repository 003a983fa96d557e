"""A short round of each fuzz target; make fuzz runs a long one."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import images, indexes, tars, tasks, texts, watched
from tests.fuzz.mutations import mutated
from tests.fuzz.watched import Case, run_cases


@pytest.mark.parametrize(
    ("make_case", "num_cases"),
    [
        (tars.make_case, 150),
        (indexes.make_case, 60),
        (images.make_case, 80),
        (texts.make_case, 80),
        (tasks.make_case, 60),
    ],
    ids=["tars", "indexes", "images", "texts", "tasks"],
)
def test_damaged_files_neither_crash_nor_hang_their_readers(make_case: Callable[[Path], Case], num_cases: int) -> None:
    result = run_cases(make_case, seed=1, first=0, max_cases=num_cases, max_seconds=120)
    assert not result.failures, result.failures
    assert result.num_cases > 20 and len(result.outcomes) > 1


@pytest.mark.parametrize("number", [12281, 25641])
def test_tables_that_made_arrow_abort_are_read_or_refused(number: int) -> None:
    result = run_cases(texts.make_case, seed=0, first=number, max_cases=1, max_seconds=60)
    assert result.num_cases == 1 and not result.failures


def test_mutations_are_functions_of_the_seed() -> None:
    content = bytes(range(256)) * 8
    made = [mutated(content, random.Random(seed)) for seed in range(50)]
    assert made == [mutated(content, random.Random(seed)) for seed in range(50)]
    assert len(set(made)) > 40


def make_failing_case(folder: Path) -> Case:
    """Return a case that fails in one of four ways, or not at all."""

    def case(rng: random.Random, folder: Path) -> str:
        what = rng.randrange(5)
        if what == 0:
            raise RuntimeError("a fault")
        if what == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == 2:
            time.sleep(60)
        if what == 3:
            time.sleep(0.5 if bytearray(300_000_000) else 0)
        return "fine"

    return case


@pytest.mark.slow  # starts a process anew for each of a dozen faults
def test_crashes_hangs_growth_and_exceptions_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "HANG_SECONDS", 1.0)
    monkeypatch.setattr(watched, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(watched, "MAX_GROWTH_BYTES", 200_000_000)
    result = run_cases(make_failing_case, seed=0, first=0, max_cases=12, max_seconds=60)
    assert result.num_cases == 12 and result.outcomes["fine"] > 0
    found = " ".join(result.failures.values())
    assert "a fault" in found and "ended with -11" in found and "hangs for" in found and "memory grew" in found
