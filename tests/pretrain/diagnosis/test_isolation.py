"""Checks that crash, hang, raise or lack a library, beside others that end. CPU, two seconds."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from pretrain.diagnosis.findings import Finding
from pretrain.diagnosis.isolation import check_of, run_checks


def sound(text: str, seconds: float = 0.0) -> Iterator[Finding]:
    time.sleep(seconds)
    yield Finding("ok", "sound", text)


def crash_after_a_finding() -> Iterator[Finding]:
    yield Finding("ok", "crash", "the first part")
    print("a library's last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    yield Finding("ok", "crash", "never")


def hang(pid_file: Path) -> Iterator[Finding]:
    if (child := os.fork()) == 0:
        time.sleep(1000)
    pid_file.write_text(str(child))
    time.sleep(1000)
    yield Finding("ok", "hang", "never")


def lack() -> Iterator[Finding]:
    import no_such_library  # type: ignore[import-not-found]  # noqa: F401

    yield Finding("ok", "lack", "never")


def leave() -> Iterator[Finding]:
    yield Finding("ok", "leave", "first")
    raise SystemExit("a library ends the process")


def test_a_check_that_fails_in_any_way_is_a_finding_and_the_others_go_on(tmp_path: Path) -> None:
    checks = [
        check_of("sound", sound, "slow", 0.3),
        check_of("crash", crash_after_a_finding),
        check_of("hang", hang, tmp_path / "pid"),
        check_of("lack", lack),
        check_of("leave", leave),
        check_of("sound", sound, "last"),
    ]
    found = [*run_checks(checks, deadline_seconds=1.5, at_once=2)]
    assert [one.subject for one in found] == ["sound", "crash", "crash", "hang", "lack", "leave", "leave", "sound"]
    assert [one.level for one in found] == ["ok", "ok", "error", "error", "error", "ok", "error", "ok"]
    assert (found[0].text, found[-1].text) == ("slow", "last")
    assert "killed by SIGKILL" in found[2].text and "a library's last words" in found[2].text
    assert "did not end within 1.5 s" in found[3].text and "--deadline" in found[3].remedy
    assert "no_such_library is not installed" in found[4].text and found[4].remedy
    assert "SystemExit: a library ends the process" in found[6].text


def test_processes_that_a_hanging_check_started_end_with_it(tmp_path: Path) -> None:
    [*_] = run_checks([check_of("hang", hang, tmp_path / "pid")], deadline_seconds=0.5, at_once=1)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    raise AssertionError("the child of a check is still there")


def test_a_caller_that_stops_early_leaves_no_process() -> None:
    findings = run_checks([check_of("sound", sound, "a"), check_of("sound", sound, "b", 1000)], 1000, at_once=2)
    assert next(findings).text == "a"
    findings.close()
    assert not [child for child in psutil.Process().children() if child.status() == psutil.STATUS_RUNNING]
