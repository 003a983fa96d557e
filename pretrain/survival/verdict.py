"""The main rank's judge: it hears where all ranks are and tells them all when one is lost. watchdog.py has the rest."""

import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pretrain.survival.rank_links import Link
from pretrain.survival.reception import Reception

BEATS_PER_SILENCE = 6
"""Signs of life in the time after which a rank counts as silent."""
GRACE_SECONDS = 2.0
"""How much later than its consequences a death may be heard of, and how long a verdict may take to reach all."""


@dataclass
class Member:
    """What the main rank knows of a rank."""

    heard_at: float
    moved_at: float
    where: dict[str, Any] = field(default_factory=lambda: {"phase": "start", "step": -1, "host": "an unknown host"})
    link: Link | None = None
    died_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    frame: str = ""
    has_ended: bool = False

    @property
    def place(self) -> str:
        return place_of(self.where)


class Judge(threading.Thread):
    """On the main rank: hears all ranks and tells them all when one is lost."""

    def __init__(
        self, listeners: list[socket.socket], secret: bytes, world_size: int, silent_seconds: float, hang_seconds: float
    ):
        super().__init__(name="watchdog judge", daemon=True)
        now = time.monotonic()
        self.members = [Member(now, now) for _ in range(world_size)]
        self.silent_seconds, self.hang_seconds = silent_seconds, hang_seconds
        self.asked_at: float | None = None
        self.reception = Reception(listeners, secret, world_size)
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
        for link in self.reception.wait(timeout_seconds):
            self._receive(link, time.monotonic())

    def _receive(self, link: Link, now: float) -> None:
        try:
            for message in link.receive():
                if link.rank is None:
                    self._admit(link, message)
                else:
                    self._take(self.members[link.rank], message, now)
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError, RecursionError):  # lost, or a stranger's
            self.reception.drop(link)
            if link.rank is not None and self.members[link.rank].link is link:
                member = self.members[link.rank]
                member.link, member.died_at = None, None if member.has_ended else now

    def _admit(self, link: Link, message: dict[str, Any]) -> None:
        """Raises ValueError for what is none of this run's ranks."""
        if not self.reception.admit(link, message):
            raise ValueError("a stranger")
        assert link.rank is not None
        member = self.members[link.rank]
        if member.link is not None:  # the rank has not heard that it was let in, and came again
            self.reception.drop(member.link)
        member.link = link
        if all(member.link for member in self.members):
            self.reception.close()

    def _take(self, member: Member, message: dict[str, Any], now: float) -> None:
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
        self.reception.close_in_child()
        for member in self.members:
            if member.link is not None:
                member.link.connection.close()


def place_of(where: dict[str, Any]) -> str:
    return str(where["phase"]) if where["step"] < 0 else f"{where['phase']} of step {where['step']}"


def _ranges(ranks: list[int]) -> str:
    """[0, 2, 3, 4] -> '0, 2-4'"""
    parts: list[str] = []
    for rank in ranks:
        if parts and rank - 1 == int(parts[-1].rpartition("-")[2]):
            parts[-1] = f"{parts[-1].partition('-')[0]}-{rank}"
        else:
            parts.append(str(rank))
    return ", ".join(parts)
