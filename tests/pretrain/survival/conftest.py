"""Fixtures of the watchdog's tests."""

from collections.abc import Iterator

import pytest

from pretrain.survival.judge import Judge
from tests.support.judges import listening_judge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """Yield the judge of a run of two ranks, neither of which has connected yet."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with listening_judge() as judge:
        yield judge
