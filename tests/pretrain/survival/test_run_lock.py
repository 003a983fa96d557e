"""The lock of a run: a process that waits or is refused prints one harmless sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.survival.agreement import RetryableRunError
from pretrain.survival.run_lock import LOCK_NAME, lock_run

HOLD = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        (b"process 7 on node1\n", "process 7 on node1"),
        (b"", "another job"),
        (bytes(100), "another job"),
        (b"\x1b[2J\nerror: forged\xff", r"\\x1b\[2J\\nerror: forged"),
    ],
)
def test_the_holder_of_a_lock_is_named_on_one_line(
    content: bytes, holder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK_NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(RetryableRunError, match=f"is in use by {holder}") as refused:
            lock_run(tmp_path, 0.1, lambda: False)
        other.communicate()
    assert str(refused.value).isprintable()
    assert capfd.readouterr().out.count("\n") == 1
    lock_run(tmp_path, 0.1, lambda: False)
    assert (tmp_path / LOCK_NAME).read_text().startswith("process ")


def test_a_lock_that_cannot_be_opened_is_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(
        OSError, match=rf"{LOCK_NAME} cannot be opened \(Is a directory\); move it away and start again"
    ):
        lock_run(tmp_path, 0.1, lambda: False)
