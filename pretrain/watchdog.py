"""No rank waits for one that is lost: each tells the main rank where it is, and all end with a sentence when one dies,
falls silent, or when none moves on.

One TCP connection a rank to a thread of the main rank, one JSON object a line. The kernel closes the connection of a
process that dies, so a death is known at once; a node without power is known by its silence.

    rank -> main rank   {"step": 17, "phase": "backward"}    now and then, and whenever it moves on
                        {"failed": "RuntimeError: ..."}      an exception that the other ranks do not share
                        {"frame": "reader.py:12 in read"}    asked for where nothing moves
                        {"end": true}                        it ends as agreed
    main rank -> rank   {"main": "building on host"}         it is alive, and there
                        {"where": true}                      asks for the frame
                        {"verdict": "...", "rank": 3}        print it and end
"""

import json
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from pretrain.console import warn
from pretrain.stop import EXIT_RANK_LOST, end_process

BEATS_PER_SILENCE = 6
"""Signs of life in the time after which a rank counts as silent."""
GRACE_SECONDS = 2.0
"""How much later than its consequences a death may be heard of, and how long a verdict may take to reach all."""
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
        self._judge: _Judge | None = None
        port = [0]
        if self.rank == 0:
            self._judge = _Judge(dist.get_world_size(), silent_rank_seconds, hang_seconds)
            port = [self._judge.port]
            self._judge.start()
        dist.broadcast_object_list(port)
        address = (os.environ["MASTER_ADDR"], port[0])
        self._connection = socket.create_connection(address, timeout=silent_rank_seconds)
        self._connection.settimeout(silent_rank_seconds / BEATS_PER_SILENCE)
        # loader workers are forked, and a copy of the connection there would outlive this process
        os.register_at_fork(after_in_child=self._connection.close)
        self._send({"rank": self.rank, **self._where})
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
                self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        received = b""
        heard_at = last_turn = time.monotonic()
        while True:
            try:
                data = self._connection.recv(1 << 16)
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
            except OSError:
                data = b""
            if self._is_over:
                return
            if not data:
                self._finish(f"rank 0 died; it was last heard of in {self._main_place}", 0)
            heard_at = last_turn = time.monotonic()
            *lines, received = (received + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
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
                f"error: {verdict}; rank {self.rank} was in {_place(self._where)} and ends; the same command continues"
            )
        if self._judge is not None:
            self._judge.join(2 * GRACE_SECONDS)  # it still tells the others
        end_process(EXIT_RANK_LOST)


@dataclass
class _Member:
    """What the main rank knows of a rank."""

    heard_at: float
    moved_at: float
    where: dict[str, Any] = field(default_factory=lambda: {"phase": "start", "step": -1, "host": "an unknown host"})
    link: "_Link | None" = None
    died_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    frame: str = ""
    has_ended: bool = False

    @property
    def place(self) -> str:
        return _place(self.where)


@dataclass(eq=False)
class _Link:
    """A connection; rank: whose it is, once that was said."""

    connection: socket.socket
    received: bytes = b""
    rank: int | None = None

    def send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # its end shows when it is heard
            self.connection.sendall(json.dumps(message).encode() + b"\n")


class _Judge(threading.Thread):
    """On the main rank: hears all ranks and tells them all when one is lost."""

    def __init__(self, world_size: int, silent_seconds: float, hang_seconds: float):
        super().__init__(name="watchdog judge", daemon=True)
        now = time.monotonic()
        self.members = [_Member(now, now) for _ in range(world_size)]
        self.silent_seconds, self.hang_seconds = silent_seconds, hang_seconds
        self.asked_at: float | None = None
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        self.listener = socket.create_server(("", 0), family=family, backlog=world_size, dualstack_ipv6=both)
        self.port: int = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, None)
        os.register_at_fork(after_in_child=self._close)

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # without a word, all would take the main rank for lost
            self._tell({"verdict": f"the watchdog on the main rank failed ({error!r})", "rank": 0})

    def _watch(self) -> None:
        beat = self.silent_seconds / BEATS_PER_SILENCE
        last_beat = last_turn = time.monotonic()
        while not all(member.has_ended for member in self.members):
            self._hear(min(beat, 0.5))
            now = time.monotonic()
            if now - last_turn > self.silent_seconds / 2:  # this process itself was held: nobody else is to blame
                for member in self.members:
                    member.heard_at = member.moved_at = now
            last_turn = now
            verdict = self._verdict(now)
            if verdict is not None:
                self._tell({"verdict": verdict[0], "rank": verdict[1]})
                # what is unread when a process ends may take what was sent with it, so hear them out
                while any(member.link for member in self.members[1:]) and time.monotonic() < now + GRACE_SECONDS:
                    self._hear(0.1)
                return
            if now - last_beat > beat:
                self._tell({"main": f"{self.members[0].place} on {self.members[0].where['host']}"})
                last_beat = now

    def _hear(self, timeout_seconds: float) -> None:
        for key, _ in self.selector.select(timeout_seconds):
            if key.fileobj is self.listener:
                with suppress(OSError):  # it has gone again
                    connection, _ = self.listener.accept()
                    connection.setblocking(False)
                    self.selector.register(connection, selectors.EVENT_READ, _Link(connection))
            else:
                self._receive(key.data, time.monotonic())

    def _receive(self, link: _Link, now: float) -> None:
        try:
            data = link.connection.recv(1 << 16)
            *lines, link.received = (link.received + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if link.rank is None:
                    link.rank = int(message.pop("rank"))
                    self.members[link.rank].link = link
                self._take(self.members[link.rank], message, now)
        except BlockingIOError:
            return
        except (OSError, ValueError, LookupError, TypeError, AttributeError):  # lost, or a stranger's
            data = b""
        if not data:
            self.selector.unregister(link.connection)
            link.connection.close()
            if link.rank is not None:
                member = self.members[link.rank]
                member.link, member.died_at = None, None if member.has_ended else now

    def _take(self, member: _Member, message: dict[str, Any], now: float) -> None:
        member.heard_at = now
        if "failed" in message:
            member.failed_at, member.failure = now, message["failed"]
        elif "frame" in message:
            member.frame = message["frame"]
        elif "end" in message:
            member.has_ended = True
        elif any(member.where[name] != value for name, value in message.items()):
            member.where |= message
            member.moved_at = now

    def _verdict(self, now: float) -> tuple[str, int] | None:
        """What to tell everyone, and the rank that it is about."""
        dead = [(m.died_at, rank) for rank, m in enumerate(self.members) if m.died_at is not None]
        if dead:
            _, rank = min(dead)
            member = self.members[rank]
            return f"rank {rank} on {member.where['host']} died in {member.place}", rank
        for rank, member in enumerate(self.members):
            silence = now - member.heard_at
            # at the start the first collective may take its time
            if not member.has_ended and silence > (self.silent_seconds if member.link else self.hang_seconds):
                place = f"{member.where['host']} was not heard for {silence:.0f} s, last in {member.place}"
                return f"rank {rank} on {place}; its process or node hangs", rank
        failed = [(m.failed_at, rank) for rank, m in enumerate(self.members) if m.failed_at is not None]
        if failed:
            failed_at, rank = min(failed)
            quiet = 2 * self.silent_seconds / BEATS_PER_SILENCE
            if now - failed_at < GRACE_SECONDS or any(
                now - member.heard_at > quiet and not member.has_ended for member in self.members
            ):
                return None  # perhaps only because another one died, or its node did
            member = self.members[rank]
            return f"rank {rank} on {member.where['host']} failed in {member.place} ({member.failure})", rank
        if now - max(member.moved_at for member in self.members) > self.hang_seconds:
            if self.asked_at is None:
                self.asked_at = now
                self._tell({"where": True})
            elif now - self.asked_at > GRACE_SECONDS:
                return self._who_hangs()
        else:
            self.asked_at = None
        return None

    def _who_hangs(self) -> tuple[str, int]:
        """Ranks by where they are: those that wait for another are many and alike, and further than it."""
        groups: dict[tuple[int, str], list[int]] = {}
        for rank, member in enumerate(self.members):
            groups.setdefault((member.where["step"], f"{member.place}, {member.frame}"), []).append(rank)
        ordered = sorted(groups.items(), key=lambda group: (group[0][0], len(group[1])))
        found = "; ".join(f"rank {_ranges(ranks)} in {place}" for (_, place), ranks in ordered)
        return f"nothing moved for {self.hang_seconds:.0f} s: {found}", ordered[0][1][0]

    def _tell(self, message: dict[str, Any]) -> None:
        for member in self.members:
            if member.link is not None:
                member.link.send(message)

    def _close(self) -> None:
        """In a forked child."""
        self.listener.close()
        for member in self.members:
            if member.link is not None:
                member.link.connection.close()


def _place(where: dict[str, Any]) -> str:
    return str(where["phase"]) if where["step"] < 0 else f"{where['phase']} of step {where['step']}"


def _frame_of_main_thread() -> str:
    """Where the main thread is: the innermost line, and the innermost of ours if that is another."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    stack = traceback.extract_stack(frame)[::-1]
    ours = next((line for line in stack if Path(line.filename).parent.name in OWN_PACKAGES), stack[0])
    lines = [stack[0]] if ours is stack[0] else [stack[0], ours]
    return " called by ".join(f"{Path(line.filename).name}:{line.lineno} {line.name}" for line in lines)


def _ranges(ranks: list[int]) -> str:
    """[0, 2, 3, 4] -> '0, 2-4'"""
    parts: list[str] = []
    for rank in ranks:
        if parts and rank - 1 == int(parts[-1].rpartition("-")[2]):
            parts[-1] = f"{parts[-1].partition('-')[0]}-{rank}"
        else:
            parts.append(str(rank))
    return ", ".join(parts)
