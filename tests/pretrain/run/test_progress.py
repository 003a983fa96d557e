"""Progress on terminals of any width and in files. CPU, no time at all."""

import os
import pty
import select
import termios
from collections.abc import Iterator
from datetime import datetime, timedelta
from fcntl import ioctl
from itertools import pairwise
from struct import pack
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from pretrain.run import progress as module
from pretrain.run.progress import Progress, duration_in_words, end_in_words, fitted, is_round
from pretrain.survival import console

NOON = datetime(2026, 3, 4, 12, 0)


def record(step: int, **others: Any) -> dict[str, Any]:
    figures = {"loss": 3.0, "losses": {"mim": 5.5, "mlm": 9.25, "mvlm_image": float("nan"), "mvlm_text": 9.0}}
    speed = {"tokens_per_second": 12345.6, "mfu": 0.4123, "data_wait": 0.031, "memory_gib": 61.234}
    return {"step": step, "grad_norm": 1.25, "lr": 1e-3, "num_skipped_steps": 0, **figures, **speed, **others}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose last element is the time."""
    now = [1000.0]
    monkeypatch.setattr("pretrain.run.progress.time", SimpleNamespace(monotonic=lambda: now[-1]))
    return now


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """Yield the reading end of a terminal on which messages are printed, and the writing end."""
    reading, writing = pty.openpty()
    with open(writing, "w", buffering=1) as stream:
        console.divert((stream, stream))
        yield reading, stream
        console.end_live()
        console.divert(None)
    os.close(reading)


def resize(stream: TextIO, columns: int) -> None:
    ioctl(stream.fileno(), termios.TIOCSWINSZ, pack("HHHH", 24, columns, 0, 0))


def printed_on(reading: int) -> str:
    """Return all that was printed on a terminal so far."""
    found = b""
    while select.select([reading], [], [], 0.2)[0]:
        found += os.read(reading, 4096)
    return found.decode()


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows after this text, of any width."""
    lines, column = [""], 0
    for character in text:
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def test_plain_lines_become_ever_rarer(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1500, 300)
    for step in range(300, 1500):
        clock.append(clock[-1] + 0.2)
        progress.show(record(step, time=clock[-1]))
    shown = [int(line.split("/")[0].removeprefix("step ")) for line in capsys.readouterr().out.splitlines()]
    assert shown[:6] == [301, 302, 305, 310, 320, 350]
    later = shown[8:]
    assert later[-1] == 1500 and all(50 <= b - a <= 150 for a, b in pairwise(later))


def test_a_plain_line_has_every_part(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(7, 0)
    for step in range(2):
        clock.append(clock[-1] + 2.0)
        progress.show(record(step, time=clock[-1], num_skipped_steps=step, bad_samples=1))
    line = capsys.readouterr().out.splitlines()[-1]
    beginning, _, end = line.partition("  10 s left  ends ")
    assert beginning == (
        "step 2/7  loss 3.000  mim 5.500  mlm 9.250  mvlm_image -  mvlm_text 9.000  grad norm 1.25  lr 1.0e-03  "
        "2.00 s/step  12,346 tokens/s  MFU 41.2%  data wait 3%  61.2 GiB  1 skipped  2 bad samples"
    )
    assert len(end) in (5, 9)  # 14:32, Tue 00:00


@pytest.mark.parametrize("columns", [200, 160, 120, 80, 60, 40, 10])
def test_the_live_line_never_wraps_and_loses_what_matters_least(
    columns: int, clock: list[float], terminal: tuple[int, TextIO]
) -> None:
    reading, stream = terminal
    resize(stream, columns)
    progress = Progress(700_000, 100_000)
    for step in range(100_000, 100_003):
        clock.append(clock[-1] + 2.0)
        progress.show(record(step, time=clock[-1], num_skipped_steps=3))
        if step == 100_001:
            console.say("saved step 100002 of 700000 in runs/base/checkpoints/step_00100002")
            console.warn("warning: a message")
    lines = screen(printed_on(reading))
    live = lines.pop()
    assert lines == ["saved step 100002 of 700000 in runs/base/checkpoints/step_00100002", "warning: a message"]
    assert len(live) < columns and live == f"step 100003/700000{live[18:]}"[: columns - 1]
    expected = {200: "grad norm", 160: "mlm 9.250", 120: "GiB  3 skipped", 80: "tokens/s", 60: "  ends ", 40: "loss"}
    assert expected.get(columns, "") in live


def test_the_last_live_line_stays_and_messages_follow_below_it(
    clock: list[float], terminal: tuple[int, TextIO]
) -> None:
    reading, stream = terminal
    resize(stream, 80)
    progress = Progress(2, 0)
    for step in range(2):
        progress.show(record(step, time=clock[-1]))
    console.say("runs/base is complete: 2 steps")
    *_, last, message, empty = screen(printed_on(reading))
    assert last.startswith("step 2/2  loss 3.000") and (message, empty) == ("runs/base is complete: 2 steps", "")


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (timedelta(seconds=9.6), "9 s left, ends 12:00"),
        (timedelta(minutes=25, seconds=30), "25 min left, ends 12:25"),
        (timedelta(hours=3, minutes=5), "3 h 5 min left, ends 15:05"),
        (timedelta(hours=13), "13 h 0 min left, ends Thu 01:00"),
        (timedelta(days=6, hours=1), "6 d 1 h left, ends Tue 13:00"),
        (timedelta(days=30), "30 d 0 h left, ends 3 Apr 12:00"),
    ],
)
def test_the_end_is_said_by_time_of_day_and_duration(left: timedelta, words: str) -> None:
    assert f"{duration_in_words(left)} left, {end_in_words(NOON + left, NOON)}" == words


def test_round_numbers() -> None:
    assert [number for number in range(600) if is_round(number)] == [1, 2, 5, 10, 20, 50, 100, 200, 500]


def test_the_only_part_is_cut() -> None:
    assert fitted([module.Part("step 1/8", 0), module.Part("loss 1.0", 1)], 5) == "step "
