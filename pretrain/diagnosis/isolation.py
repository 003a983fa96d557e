"""Each check in a process of its own: one that crashes, hangs or lacks a library is a finding, and the others go on.

A process is forked per check from one that has imported neither torch nor DeepSpeed, so that each starts at once, sees
the GPUs as a fresh process does, and imports only what it needs.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from data_pipeline.workers.pool import PR_SET_PDEATHSIG
from pretrain.diagnosis.findings import Finding


@dataclass(frozen=True)
class Check:
    """A check: a function that yields its findings one after the other."""

    subject: str
    """Subject of the finding if the check itself fails."""
    find: Callable[[], Iterable[Any]]
    """Yields findings; whatever else it yields reaches the caller of `run_checks` as well."""


@dataclass
class _Running:
    """A check that has started."""

    check: Check
    process: BaseProcess
    connection: Connection
    output: Any
    """File of what the process and its libraries print."""
    deadline: float
    """Time of time.monotonic()."""
    findings: list[Any] = field(default_factory=list)


def run_checks(checks: list[Check], deadline_seconds: float, at_once: int) -> Generator[Any, None, None]:
    """Yield the findings of checks in their order, each as soon as it and those before it have ended.

    deadline_seconds: time that a check may take. at_once: the number of checks that run beside each other.
    """
    waiting, running, ended = [*enumerate(checks)][::-1], dict[int, _Running](), dict[int, list[Any]]()
    try:
        for number in range(len(checks)):
            while number not in ended:
                while waiting and len(running) < at_once:
                    place, check = waiting.pop()
                    running[place] = _start(check, deadline_seconds)
                soonest = min(one.deadline for one in running.values())
                wait([one.connection for one in running.values()], max(0.0, soonest - time.monotonic()))
                for place, one in [*running.items()]:
                    if _has_ended(one, deadline_seconds):
                        ended[place] = running.pop(place).findings
            yield from ended.pop(number)
    finally:
        for one in running.values():  # interrupted
            _end(one)


def _start(check: Check, deadline_seconds: float) -> _Running:
    receiving, sending = multiprocessing.Pipe(duplex=False)
    output = tempfile.TemporaryFile()  # noqa: SIM115  open until the check has ended
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else the child would print again what is still in the buffer
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_find, args=(check, sending, output.fileno(), os.getpid()))
    process.start()
    sending.close()
    return _Running(check, process, receiving, output, time.monotonic() + deadline_seconds)


def _find(check: Check, sending: Connection, output: int, parent: int) -> None:
    """Run a check in its process, send each finding, and at the end None."""
    os.setsid()  # a group of its own, so that the processes that it starts end with it
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    try:
        for finding in check.find():
            sending.send(finding)
    except ModuleNotFoundError as error:
        text = f"not checked: the module {error.name} is not installed"
        sending.send(Finding("error", check.subject, text, "run make install, or pip install -e ."))
    except BaseException as error:  # a library may raise anything, also SystemExit
        traceback.print_exc()
        reason = " ".join(str(error).split())
        text = f"the check failed with {type(error).__name__}{': ' if reason else ''}{reason[:300]}"
        sending.send(Finding("error", check.subject, text))
    sending.send(None)
    sending.close()
    sys.stdout.flush()
    os._exit(0)  # without the teardown of libraries, which may hang


def _has_ended(one: _Running, deadline_seconds: float) -> bool:
    """Receive what a check has sent; return whether it is over, ended by its deadline if need be."""
    try:
        while one.connection.poll():
            finding = one.connection.recv()
            if finding is None:
                _end(one)
                return True
            one.findings.append(finding)
    except EOFError:  # it died
        one.process.join(1)
        one.findings.append(_death(one))
        _end(one)
        return True
    if time.monotonic() < one.deadline:
        return False
    text = f"the check did not end within {deadline_seconds:g} s, of which it computed {_cpu_seconds(one):.0f} s"
    remedy = "a file system, a device or a name server may not answer; if all is slow here, raise --deadline"
    one.findings.append(Finding("error", one.check.subject, text, remedy))
    _end(one)
    return True


def _cpu_seconds(one: _Running) -> float:
    """Return the CPU time of a check and of the processes that it has started: little if it hangs."""
    total = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(one.process.pid)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _death(one: _Running) -> Finding:
    """Return the finding of a check whose process was killed or crashed."""
    code = one.process.exitcode
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
    one.output.seek(0)
    lines = one.output.read().decode(errors="replace").strip().splitlines()
    said = f"; its last line: {lines[-1].strip()[:200]}" if lines else ""
    return Finding("error", one.check.subject, f"the process of the check ended before it was done ({how}){said}")


def _end(one: _Running) -> None:
    """Kill what is left of a check: its process and those that it started."""
    assert one.process.pid is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(one.process.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(one.process.pid, signal.SIGKILL)  # it may not have a group of its own yet
    one.process.join(5)
    one.connection.close()
    one.output.close()


def check_of(subject: str, find: Callable[..., Iterable[Any]], *arguments: Any) -> Check:
    """Return the check that calls a function with these arguments."""
    return Check(subject, partial(find, *arguments))
