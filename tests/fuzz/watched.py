"""Cases of a fuzz target in a process that is watched: a crash, a hang or growing memory is a failure."""

import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

Case = Callable[[random.Random, Path], str]
"""Function that runs one case in an empty folder and returns its outcome in a word; any exception is a failure."""

HANG_SECONDS = 30.0
MAX_GROWTH_BYTES = 1 << 30
POLL_SECONDS = 0.05
GRACE_SECONDS = 1.0


@dataclass
class FuzzResult:
    """Results of the cases of a target."""

    num_cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    """Description of each failure, by number of the case."""
    max_growth_bytes: int = 0
    seconds: float = 0.0
    """Time spent on cases, without that to start their processes."""


def run_cases(
    make_case: Callable[[Path], Case], seed: int, first: int, max_cases: int, max_seconds: float
) -> FuzzResult:
    """Run cases from number `first` on, until `max_cases` are done or the time is up.

    make_case: called once in the process, with a folder for files that all its cases share.
    """
    result = FuzzResult()
    number, stop = first, first + max_cases
    while number < stop and result.seconds < max_seconds:
        number = _watch(make_case, seed, number, stop, max_seconds, result)
    return result


def _watch(
    make_case: Callable[[Path], Case], seed: int, first: int, stop: int, max_seconds: float, result: FuzzResult
) -> int:
    """Watch one process until it is done or killed for a failure; return the number of the next case."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="fuzz"))
    process = context.Process(target=_work, args=(make_case, seed, first, stop, folder, sender))
    process.start()
    sender.close()
    watched = psutil.Process(process.pid)
    number, begun, base = first, time.monotonic(), 0
    try:
        while True:
            if receiver.poll(POLL_SECONDS):
                try:
                    number, outcome, failure = receiver.recv()
                except EOFError:
                    process.join()
                    if process.exitcode != 0:
                        _fail(result, number, f"the process ended with {process.exitcode}")
                        return number + 1
                    return stop
                now = time.monotonic()
                result.seconds += now - begun if base else 0.0
                begun, base = now, base or watched.memory_info().rss
                if outcome:
                    result.num_cases += 1
                    result.outcomes[outcome] += 1
                    if failure:
                        result.failures[number] = failure
                    number += 1
                if number == stop or result.seconds > max_seconds:
                    return stop
            growth = watched.memory_info().rss - base if base and process.is_alive() else 0
            result.max_growth_bytes = max(result.max_growth_bytes, growth)
            if growth > MAX_GROWTH_BYTES:
                _fail(result, number, f"memory grew by {growth} bytes")
                return number + 1
            if base and time.monotonic() - begun > HANG_SECONDS:
                _fail(result, number, f"hangs for {HANG_SECONDS} s", HANG_SECONDS)
                return number + 1
    except psutil.NoSuchProcess:
        _fail(result, number, f"the process ended with {process.exitcode}")
        return number + 1
    finally:
        receiver.close()  # a process that still works ends by itself at its next message
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _fail(result: FuzzResult, number: int, what: str, seconds: float = 0.0) -> None:
    result.num_cases += 1
    result.seconds += seconds
    result.outcomes["failed"] += 1
    result.failures[number] = what


def _work(
    make_case: Callable[[Path], Case], seed: int, first: int, stop: int, folder: Path, sender: Connection
) -> None:
    """Run the cases one after the other in the process, and report each when it is done."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    shared = folder / "shared"
    shared.mkdir()
    case = make_case(shared)
    os.dup2(quiet, 1)  # warnings of thousands of damaged files, also of libraries in C
    os.dup2(quiet, 2)
    sender.send((first, "", ""))  # ready: from here on, time and memory are those of the cases
    for number in range(first, stop):
        own = folder / "case"
        own.mkdir()
        try:
            outcome, failure = case(random.Random(f"{seed} {number}"), own), ""
        except Exception:
            outcome, failure = "failed", traceback.format_exc()
        shutil.rmtree(own)
        sender.send((number, outcome, failure))
