"""Monitors that raise, hang or are slow: a run never waits for them. CPU, a second."""

import threading
import time
from collections.abc import Callable, Mapping

import pytest

from pretrain.monitoring import monitors as module
from pretrain.monitoring.monitors import Monitors, Opener


class Recorder:
    """A monitor that keeps what it gets, and first does something else."""

    def __init__(self, before: Callable[[int], None] = lambda step: None):
        self.before = before
        self.written = list[tuple[int, dict[str, float]]]()
        self.is_closed = False

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        self.before(step)
        self.written.append((step, dict(figures)))

    def close(self) -> None:
        self.is_closed = True


def test_each_monitor_gets_every_finite_figure_in_order_and_is_closed() -> None:
    recorder, opened_at = Recorder(), list[int]()

    def open_recorder(first_step: int) -> Recorder:
        opened_at.append(first_step)
        return recorder

    monitors = Monitors([Opener("recorder", open_recorder)], first_step=4)
    monitors.write(4, {"evaluation/loss": 2.0})  # left out before; the figures of step 4 are there and stay
    for step in range(5, 8):
        monitors.write(step, {"loss": step, "loss/mim": float("nan"), "grad_norm": float("inf")})
    monitors.close()
    assert opened_at == [5] and recorder.is_closed
    assert recorder.written == [(4, {"evaluation/loss": 2.0}), (5, {"loss": 5}), (6, {"loss": 6}), (7, {"loss": 7})]


def test_without_monitors_as_on_other_ranks_nothing_happens() -> None:
    threads = threading.active_count()
    monitors = Monitors()
    monitors.write(1, {"loss": 1.0})
    monitors.close()
    assert threading.active_count() == threads


def test_a_monitor_that_raises_is_reported_once_and_does_not_stop_another(capfd: pytest.CaptureFixture[str]) -> None:
    def raise_it(step: int) -> None:
        raise OSError(28, "No space left on device", f"figures of {step}")

    broken, sound = Recorder(raise_it), Recorder()
    monitors = Monitors([Opener("broken", lambda _: broken), Opener("sound", lambda _: sound)])
    for step in range(1, 9):
        monitors.write(step, {"loss": 1.0})
    monitors.close()
    assert [step for step, _ in sound.written] == list(range(1, 9))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: monitor broken failed ([Errno 28] No space left on device: 'figures of 1'); the")


def test_a_monitor_that_failed_is_opened_again_later(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)

    def fail_early(step: int) -> None:
        if step < 3:
            raise ConnectionError("no server")

    opened_at, recorder = list[int](), Recorder(fail_early)
    monitors = Monitors([Opener("server", lambda first_step: opened_at.append(first_step) or recorder)])  # type: ignore[func-returns-value]
    for step in range(1, 6):
        monitors.write(step, {"loss": 1.0})
    monitors.close()
    assert opened_at == [1, 1, 1] and [step for step, _ in recorder.written] == [3, 4, 5]
    assert capfd.readouterr().err.count("warning: monitor server failed (no server)") == 1


def test_a_monitor_that_hangs_neither_blocks_a_run_nor_its_end(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 10)
    goes_on = threading.Event()

    def wait(step: int) -> None:
        goes_on.wait()

    hanging, sound = Recorder(wait), Recorder()
    monitors = Monitors([Opener("hanging", lambda _: hanging), Opener("sound", lambda _: sound)])
    for step in range(1, 100):
        monitors.write(step, {"loss": 1.0})  # would block for ever if it waited
        while len(sound.written) < step:
            time.sleep(0.001)
    assert hanging.written == []
    monitors.close(seconds=0.1)
    assert len(sound.written) == 99 and sound.is_closed and not hanging.is_closed
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: monitor hanging is 10 steps behind; the run goes on")
    goes_on.set()


def test_the_end_waits_for_a_monitor_only_so_long(capfd: pytest.CaptureFixture[str]) -> None:
    goes_on = threading.Event()

    def wait(step: int) -> None:
        goes_on.wait()

    monitors = Monitors([Opener("slow", lambda _: Recorder(wait))])
    monitors.write(1, {"loss": 1.0})
    monitors.close(seconds=0.05)
    assert "warning: monitor slow has not written all figures 0.05 s after the end;" in capfd.readouterr().err
    goes_on.set()
