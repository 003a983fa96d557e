"""All packages that a benchmark lacks are reported at once, in a line to copy."""

import pytest

from tests.benchmarks.bench_data import MIN_CPU_SECONDS, BenchOptions, _rate
from tests.benchmarks.packages import install_line, require_packages

PRESENT, ABSENT = {"json": "json"}, {"no_such_a": "no-such-a", "no_such_b": "no-such-b"}


def test_all_missing_packages_are_named_in_one_line_that_installs_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        require_packages({**PRESENT, "no_such_a": "no-such-a"}, {"no_such_b": "no-such-b"})
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "error: this benchmark needs no-such-a; pip install --no-deps no-such-a no-such-b\n"
    )
    require_packages(PRESENT, ABSENT)
    told = "without no-such-a, no-such-b: fewer peers; pip install --no-deps no-such-a no-such-b\n"
    assert capsys.readouterr().out == told
    require_packages(PRESENT, PRESENT)
    assert not capsys.readouterr().out


def test_packages_with_dependencies_are_installed_in_the_same_line() -> None:
    assert install_line(["matplotlib", "a", "b"]) == "pip install matplotlib && pip install --no-deps a b"


def test_a_rate_is_measured_although_the_clock_ticks_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count CPU time in ticks of 10 ms, during which a fast machine makes a few batches."""
    now = iter([0.0, 0.0, 0.0, 0.01, MIN_CPU_SECONDS])
    monkeypatch.setattr("tests.benchmarks.bench_data._cpu_seconds", lambda: next(now))
    rate = _rate(iter(range(1000)), BenchOptions(quick=True), lambda batch: 1)
    assert rate.core == 4 * 4 / MIN_CPU_SECONDS and rate.process > 0
