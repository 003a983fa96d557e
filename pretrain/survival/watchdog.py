"""No rank waits for one that is lost: each tells the main rank where it is, and all end with a sentence when one dies,
falls silent, or when none moves on.

One TCP connection per rank to a thread of the main rank (rank_links.py opens it and keeps strangers out,
watchdog_judge.py is that thread), one JSON object per line. The kernel closes the connection of a process that dies, so
a death is known at once; a node without power is known by its silence.

    rank -> main rank   {"step": 17, "phase": "backward"}    now and then, and whenever it moves on
                        {"failed": "RuntimeError: ..."}      an exception that the other ranks do not share
                        {"frame": "reader.py:12 in read"}    asked for where nothing moves
                        {"end": true}                        it ends as agreed
    main rank -> rank   {"main": "building on host"}         it is alive, and there
                        {"where": true}                      asks for the frame
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
from pretrain.survival.rank_links import Doors, Link, connect, encode, open_doors
from pretrain.survival.stop import EXIT_RANK_LOST, end_as_mistake, end_process
from pretrain.survival.verdict import BEATS_PER_SILENCE, GRACE_SECONDS, Judge, place_of

MESSAGES_PER_SECOND = 1000
"""From all ranks together, at most about: more moves in a second are not told."""
OWN_PACKAGES = ("pretrain", "model", "data_pipeline")


class Watchdog:
    """This rank's part. All ranks make one at the same time, once the process group stands."""

    def __init__(self, silent_rank_seconds: float, hang_seconds: float):
        self.rank, self._is_over = dist.get_rank(), False
        self._lock = threading.Lock()
        self._where = {"step": -1, "phase": "start", "host": socket.gethostname()}
        self._moves_per_second = max(1, MESSAGES_PER_SECOND // dist.get_world_size())
        self._second, self._num_moves = 0, 0
        self._last_sent = 0.0
        self._traceback = ""
        self._main_place = "an unknown place"
        self._silent_seconds = silent_rank_seconds
        self._judge: Judge | None = None
        listeners, doors = open_doors()
        if self.rank == 0:
            self._judge = Judge(listeners, doors.secret, dist.get_world_size(), silent_rank_seconds, hang_seconds)
            self._judge.start()
        try:
            on_every_rank(lambda: self._join(doors))
        except RunError as error:
            end_as_mistake(str(error))

    def _join(self, doors: Doors) -> None:
        """Raises OSError, in a sentence, if the main rank cannot be reached."""
        self._connection = connect(doors, self.rank, self._silent_seconds)
        self._connection.settimeout(self._silent_seconds / BEATS_PER_SILENCE)
        # loader workers are forked, and a copy of the connection there would outlive this process
        os.register_at_fork(after_in_child=self._connection.close)
        self._send(self._where)
        threading.Thread(target=self._listen, name="watchdog", daemon=True).start()

    def at(self, phase: str, step: int | None = None) -> None:
        """This rank moves on."""
        self._where["phase"] = phase
        if step is not None:
            self._where["step"] = step
        second = int(time.monotonic())
        self._num_moves = self._num_moves + 1 if second == self._second else 1
        self._second = second
        if self._num_moves <= self._moves_per_second:
            self._send(self._where)

    def end(self) -> None:
        """This rank ends as agreed by all, and will not be missed. The main rank waits for the others."""
        self._is_over = True
        self._send({"end": True})
        if self._judge is not None:
            self._judge.join()

    def failed(self, error: BaseException) -> NoReturn:
        """End all ranks for an exception that this one alone may have met."""
        self._traceback = "".join(traceback.format_exception(error))
        self._send({"failed": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})
        time.sleep(self._silent_seconds + 2 * GRACE_SECONDS)  # the verdict ends this process
        self._finish("this rank failed, and the main rank does not answer", self.rank)

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._last_sent = time.monotonic()
            with suppress(OSError):  # the listening thread finds out why
                self._connection.sendall(encode(message))

    def _listen(self) -> None:
        link = Link(self._connection, time.monotonic(), rank=self.rank)
        heard_at = last_turn = time.monotonic()
        while True:
            try:
                messages: list[dict[str, Any]] | None = link.receive()
            except TimeoutError:
                now = time.monotonic()
                if now - last_turn > self._silent_seconds / 2:  # this process itself was held, as when it is suspended
                    heard_at = now
                last_turn = now
                if now - heard_at > self._silent_seconds:
                    silence = f"was not heard for {self._silent_seconds:.0f} s, last in {self._main_place}"
                    self._finish(f"rank 0 {silence}; its process or node hangs", 0)
                self._send(self._where)
                continue
            except (OSError, EOFError, ValueError):
                messages = None
            if self._is_over:
                return
            if messages is None:
                self._finish(f"rank 0 died; it was last heard of in {self._main_place}", 0)
            heard_at = last_turn = time.monotonic()
            for message in messages:
                self._main_place = message.get("main", self._main_place)
                if "verdict" in message:
                    self._finish(message["verdict"], message["rank"])
                if "where" in message:
                    self._send({"frame": _frame_of_main_thread()})
            if time.monotonic() - self._last_sent > self._silent_seconds / BEATS_PER_SILENCE:
                self._send(self._where)

    def _finish(self, verdict: str, lost_rank: int) -> NoReturn:
        """End this process now, whatever its main thread waits for."""
        # even where a file system holds what is printed
        threading.Timer(3 * GRACE_SECONDS, os._exit, [EXIT_RANK_LOST]).start()
        if self._traceback and lost_rank == self.rank:
            warn(self._traceback)
        if os.environ.get("LOCAL_RANK", "0") == "0" or lost_rank == 0:  # one a node, but who is left there is not known
            warn(
                f"error: {verdict}; rank {self.rank} was in {place_of(self._where)} and ends; "
                "the same command continues"
            )
        if self._judge is not None:
            self._judge.join(2 * GRACE_SECONDS)  # it still tells the others
        end_process(EXIT_RANK_LOST)


def _frame_of_main_thread() -> str:
    """Where the main thread is: the innermost line, and the innermost of ours if that is another."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    stack = traceback.extract_stack(frame)[::-1]
    ours = next((line for line in stack if Path(line.filename).parent.name in OWN_PACKAGES), stack[0])
    lines = [stack[0]] if ours is stack[0] else [stack[0], ours]
    return " called by ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}" for line in lines)
