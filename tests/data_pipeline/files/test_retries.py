"""Errors of a file system that pass, or do not. CPU, seconds."""

import errno

import pytest

from data_pipeline.files import retries
from data_pipeline.files.retries import FileErrors, with_retries, written_with_retries


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.001)


class Failing:
    """Raises the given errors, one per call, then returns."""

    def __init__(self, *errors: OSError):
        self.errors = list(errors)

    def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_passing_error_is_retried() -> None:
    passing = [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle")]
    assert with_retries(Failing(*passing)) == "done"


def test_a_lasting_error_is_raised_after_a_few_attempts() -> None:
    failing = Failing(*[OSError(errno.EIO, "Input/output error")] * 10)
    with pytest.raises(OSError, match="Input/output error"):
        with_retries(failing)
    assert len(failing.errors) == 10 - FileErrors().num_attempts


def test_a_full_disk_is_reported_at_once() -> None:
    failing = Failing(*[OSError(errno.ENOSPC, "No space left on device")] * 10)
    with pytest.raises(OSError, match="log.jsonl cannot be written \\(No space left on device\\); free space"):
        written_with_retries(failing, "log.jsonl")
    assert len(failing.errors) == 9
