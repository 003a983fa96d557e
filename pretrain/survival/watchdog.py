"""No rank waits for one that is lost: each reports to the main rank where it is, and all end with a sentence when one
dies, fails or falls silent, or when none moves on.

Each rank has one TCP connection to a thread of the main rank (judge.py; rank_links.py opens it and keeps strangers
out), which carries one JSON object per line. The kernel closes the connection of a process that dies, so a death is
known at once; a node without power is known by its silence.

    rank -> main rank   {"step": 17, "phase": "backward"}    at intervals, and whenever it moves on
                        {"failed": "RuntimeError: ..."}      an exception that the other ranks do not share
                        {"frame": "reader.py:12 in read"}    the answer to "where"
                        {"end": true}                        it ends as agreed by all
    main rank -> rank   {"main": "building on host"}         it is alive, and there
                        {"where": true}                      asks for the frame, when no rank moves on
                        {"verdict": "...", "rank": 3}        print it and end
"""

import os
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from pretrain.survival.agreement import RunError, on_every_rank
from pretrain.survival.console import warn
from pretrain.survival.judge import Judge
from pretrain.survival.out_of_memory import REMEDY, is_out_of_memory
from pretrain.survival.rank_links import Doors, Link, connect, encode, open_doors
from pretrain.survival.startup_log import place_of_startup_log
from pretrain.survival.stop import EXIT_RANK_LOST, end_as_mistake, end_process
from pretrain.survival.verdict import GRACE_SECONDS, Limits, MainRank, Turns, Verdict, place_of

MESSAGES_PER_SECOND = 1000
"""At most about this many reach the main rank, from all ranks together: a rank that moves faster leaves some out."""
PROJECT = Path(__file__).parents[2]
OWN_PACKAGES = ("pretrain", "model", "data_pipeline")


class Watchdog:
    """This rank's part. All ranks make one at the same time, once the process group is there."""

    def __init__(self, silent_rank_seconds: float, hang_seconds: float):
        self.rank, self._is_over = dist.get_rank(), False
        self._lock = threading.Lock()
        self._where = {"step": -1, "phase": "start", "host": socket.gethostname()}
        self._moves_per_second = max(1, MESSAGES_PER_SECOND // dist.get_world_size())
        self._second, self._num_moves = 0, 0
        self._last_sent = 0.0
        self._traceback = ""
        self._limits = Limits(silent_rank_seconds, hang_seconds)
        self._judge: Judge | None = None
        listeners, doors = open_doors()
        if self.rank == 0:
            self._judge = Judge(listeners, doors.secret, dist.get_world_size(), self._limits)
            self._judge.start()
        try:
            on_every_rank(lambda: self._join(doors))
        except RunError as error:
            end_as_mistake(str(error))

    def _join(self, doors: Doors) -> None:
        """Connect to the main rank. Raises OSError, in a sentence, if it cannot be reached."""
        self._connection = connect(doors, self.rank, self._limits.silent_seconds)
        self._connection.settimeout(self._limits.beat_seconds)
        # loader workers are forked, and a copy of the connection there would outlive this process: its death would
        # not show
        os.register_at_fork(after_in_child=self._connection.close)
        self._send(self._where)
        threading.Thread(target=self._listen, name="watchdog", daemon=True).start()

    def at(self, phase: str, step: int | None = None) -> None:
        """Report that this rank has moved on to a phase, and to a step if one is given."""
        self._where["phase"] = phase
        if step is not None:
            self._where["step"] = step
        second = int(time.monotonic())
        self._num_moves = self._num_moves + 1 if second == self._second else 1
        self._second = second
        if self._num_moves <= self._moves_per_second:
            self._send(self._where)

    def end(self) -> None:
        """Report that this rank ends as agreed by all, so that it is not missed. The main rank waits for the others."""
        self._is_over = True
        self._send({"end": True})
        if self._judge is not None:
            self._judge.join()

    def failed(self, error: BaseException) -> NoReturn:
        """End all ranks because of an exception that perhaps only this one has met."""
        self._traceback = "".join(traceback.format_exception(error))
        self._send({"failed": describe_failure(error)})
        time.sleep(self._limits.silent_seconds + 2 * GRACE_SECONDS)  # the verdict ends this process before that
        self._finish(Verdict("this rank failed, and the main rank does not answer", self.rank))

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._last_sent = time.monotonic()
            with suppress(OSError):  # the listening thread finds out why
                self._connection.sendall(encode(message))

    def _listen(self) -> None:
        link = Link(self._connection, time.monotonic(), rank=self.rank)
        main, turns = MainRank(time.monotonic()), Turns(time.monotonic())
        while True:
            messages: list[dict[str, Any]] | None
            try:
                messages = link.receive()
            except TimeoutError:
                messages = []
            except (OSError, EOFError, ValueError):
                messages = None
            if self._is_over:
                return
            now = time.monotonic()
            if messages is None:
                self._finish(main.died())
            if turns.was_suspended(now, self._limits):
                main.heard_at = now
            for message in messages:
                main.hear(message, now)
                self._obey(message)
            if (lost := main.verdict(now, self._limits)) is not None:
                self._finish(lost)
            if not messages or now - self._last_sent > self._limits.beat_seconds:
                self._send(self._where)

    def _obey(self, message: dict[str, Any]) -> None:
        if "verdict" in message:
            self._finish(Verdict(message["verdict"], message["rank"]))
        if "where" in message:
            self._send({"frame": _frame_of_main_thread()})

    def _finish(self, verdict: Verdict) -> NoReturn:
        """End this process now, whatever its main thread waits for."""
        # even if a file system holds up what is printed
        threading.Timer(3 * GRACE_SECONDS, os._exit, [EXIT_RANK_LOST]).start()
        if self._traceback and verdict.rank == self.rank:
            warn(self._traceback + place_of_startup_log())
        # once per node; if rank 0 is lost, on every rank, since it is not known which are left
        if os.environ.get("LOCAL_RANK", "0") == "0" or verdict.rank == 0:
            warn(
                f"error: {verdict.sentence}; rank {self.rank} was in {place_of(self._where)} and ends; "
                f"rerun the same command to resume{'; ' * bool(place_of_startup_log())}{place_of_startup_log()}"
            )
        if self._judge is not None:
            self._judge.join(2 * GRACE_SECONDS)  # it still sends the verdict to the others
        end_process(EXIT_RANK_LOST)


def describe_failure(error: BaseException) -> str:
    """Return an exception in one line, with the remedy if memory is used up."""
    line = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return f"{line}; {REMEDY}" if is_out_of_memory(error) else line


def _frame_of_main_thread() -> str:
    """Return where the main thread is: the innermost line, and the innermost of ours if that is another one."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    return describe_stack(traceback.extract_stack(frame)[::-1])


def describe_stack(stack: list[traceback.FrameSummary]) -> str:
    """stack: innermost line first. -> 'connection.py:216 _recv called by loader.py:88 batches'"""
    ours = next((line for line in stack if _is_own(Path(line.filename))), stack[0])
    lines = [stack[0]] if ours is stack[0] else [stack[0], ours]
    return " called by ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}" for line in lines)


def _is_own(path: Path) -> bool:
    return path.is_relative_to(PROJECT) and path.relative_to(PROJECT).parts[0] in OWN_PACKAGES
