"""The death of a worker is reported with the sample that it was reading."""

import os
import signal
import time

import pytest

from data_pipeline.workers import under_way
from data_pipeline.workers.pool import worker_pool
from data_pipeline.workers.under_way import at_sample


def busy(name: str, seconds: float) -> str:
    """Imitates a decoder that does not end."""
    with at_sample(name):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
    return name


def killed(name: str) -> None:
    with at_sample(name):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_sample_that_takes_too_long_ends_the_job_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "SAMPLE_CPU_SECONDS", 0.3)
    with pytest.raises(ValueError) as caught, worker_pool(2) as workers:
        assert workers.submit(busy, "quick", 0.01).result() == "quick"
        workers.submit(busy, "0.tar:bomb", 60).result()
    words = "0.tar:bomb took more than 0.3 s of CPU time; remove it from the data and rerun the same command"
    assert str(caught.value) == words


def test_many_samples_that_are_each_quick_and_a_wait_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "SAMPLE_CPU_SECONDS", 0.3)
    with worker_pool(1) as workers:
        for _ in range(5):
            assert workers.submit(busy, "quick", 0.1).result() == "quick"
        workers.submit(time.sleep, 0.5).result()
        assert workers.submit(busy, "quick", 0.1).result() == "quick"


def test_a_killed_worker_is_reported_with_its_sample() -> None:
    with pytest.raises(ValueError) as caught, worker_pool(1) as workers:
        workers.submit(killed, "a\nb").result()
    words = "a worker process was killed, perhaps for lack of memory, at a\\nb; rerun the same command"
    assert str(caught.value) == words
