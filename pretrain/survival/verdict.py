"""Which rank a run has lost, if any: pure functions of each rank's last messages, the time and the limits.

judge.py (the main rank, about all ranks) and watchdog.py (each rank, about the main rank) call them; they hold no
clock, no thread and no connection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

BEATS_PER_SILENCE = 6
"""Signs of life per `silent_seconds`: a few may be late before a rank counts as lost."""
GRACE_SECONDS = 2.0
"""How much later than its consequences a death may be noticed, and how long a verdict may take to reach all ranks."""


@dataclass(frozen=True)
class Limits:
    """How long a run waits."""

    silent_seconds: float
    """Without a sign of life, after which a rank is lost."""
    hang_seconds: float
    """Without any rank moving on, after which the run hangs."""

    @property
    def beat_seconds(self) -> float:
        """Time between two signs of life."""
        return self.silent_seconds / BEATS_PER_SILENCE


@dataclass(frozen=True)
class Verdict:
    """Why the run ends."""

    sentence: str
    rank: int
    """The rank that the sentence is about."""


@dataclass
class Member:
    """A rank as the main rank knows it. Times are seconds of one monotonic clock."""

    heard_at: float
    moved_at: float
    where: dict[str, Any] = field(default_factory=lambda: {"phase": "start", "step": -1, "host": "an unknown host"})
    is_connected: bool = False
    died_at: float | None = None
    failed_at: float | None = None
    failure: str = ""
    asked_at: float | None = None
    """When its frame was asked for."""
    frame: str = ""
    """The line of code that its main thread was at then."""
    has_ended: bool = False
    """Whether it ended as agreed by all."""

    @property
    def place(self) -> str:
        return place_of(self.where)

    def hear(self, message: dict[str, Any], now: float) -> None:
        """Take in a message of this rank (watchdog.py lists them)."""
        self.heard_at = now
        if "failed" in message:
            self.failed_at, self.failure = now, message["failed"]
        elif "frame" in message:
            self.frame = message["frame"]
        elif "end" in message:
            self.has_ended = True
        elif any(self.where.get(name) != value for name, value in message.items()):  # else it is a sign of life only
            self.where |= message
            self.moved_at = now

    def disconnect(self, now: float) -> None:
        """Note that the connection was closed: by death, unless the rank has said that it ends."""
        self.is_connected = False
        self.died_at = None if self.has_ended else now


@dataclass
class Turns:
    """When this process last looked at the clock."""

    last: float

    def was_suspended(self, now: float, limits: Limits) -> bool:
        """Look at the clock. After a long pause this process was held itself, so the silence is not the others'."""
        pause, self.last = now - self.last, now
        return pause > limits.silent_seconds / 2


@dataclass
class MainRank:
    """The main rank as another rank knows it, for the case that no verdict can come from there."""

    heard_at: float
    place: str = "an unknown place"

    def hear(self, message: dict[str, Any], now: float) -> None:
        self.heard_at = now
        self.place = message.get("main", self.place)

    def died(self) -> Verdict:
        """Return the verdict once the connection is closed."""
        return Verdict(f"rank 0 died; it was last in {self.place}", 0)

    def verdict(self, now: float, limits: Limits) -> Verdict | None:
        """Return why the main rank is lost, or None."""
        if now - self.heard_at <= limits.silent_seconds:
            return None
        return _lost(0, f"was not heard from for {limits.silent_seconds:.0f} s, last in {self.place}")


def verdict(members: Sequence[Member], now: float, limits: Limits) -> Verdict | None:
    """Return why the run ends and which rank is to blame, or None if it goes on.

    members: by rank. One fault brings others about, so causes come before consequences: a death makes the other ranks
    fail in their next collective, and any of these makes all of them stop moving.
    """
    if any(member.died_at is not None for member in members):
        return _of_the_first_death(members)
    silent = _of_silence(members, now, limits)
    if silent is not None or any(member.failed_at is not None for member in members):
        return silent or _of_the_first_failure(members, now, limits)
    # judged only after all had time to answer where they are
    is_answered = all(member.asked_at is not None and now - member.asked_at > GRACE_SECONDS for member in members)
    return _of_the_hang(members, limits) if is_answered and _is_stuck(members, now, limits) else None


def must_ask(members: Sequence[Member], now: float, limits: Limits) -> bool:
    """Return whether all ranks are to be asked now where their main threads are, and note in `members` that they are:
    once, when the run seems to hang."""
    is_stuck = _is_stuck(members, now, limits)
    is_new = is_stuck and any(member.asked_at is None for member in members)
    if is_new or not is_stuck:
        for member in members:
            member.asked_at = now if is_new else None
    return is_new


def restart_clocks(members: Sequence[Member], now: float) -> None:
    """Count silence and standstill from now on, as after a suspension of the main rank itself."""
    for member in members:
        member.heard_at = member.moved_at = now


def place_of(where: dict[str, Any]) -> str:
    """{"phase": "forward", "step": 3} -> "forward of step 3"; before the first step the phase alone."""
    return str(where["phase"]) if where["step"] < 0 else f"{where['phase']} of step {where['step']}"


def _of_the_first_death(members: Sequence[Member]) -> Verdict:
    _, rank = min((member.died_at, rank) for rank, member in enumerate(members) if member.died_at is not None)
    return Verdict(f"rank {rank} on {members[rank].where['host']} died in {members[rank].place}", rank)


def _of_silence(members: Sequence[Member], now: float, limits: Limits) -> Verdict | None:
    for rank, member in enumerate(members):
        # before a rank has connected it waits in its first collective, which may take its time
        limit = limits.silent_seconds if member.is_connected else limits.hang_seconds
        silence = now - member.heard_at
        if silence > limit and not member.has_ended:
            host = member.where["host"]
            return _lost(rank, f"on {host} was not heard from for {silence:.0f} s, last in {member.place}")
    return None


def _lost(rank: int, found: str) -> Verdict:
    return Verdict(f"rank {rank} {found}; its process or node hangs", rank)


def _of_the_first_failure(members: Sequence[Member], now: float, limits: Limits) -> Verdict | None:
    """Return None as long as the failure may be the consequence of a death that is not known yet."""
    failed_at, rank = min((m.failed_at, rank) for rank, m in enumerate(members) if m.failed_at is not None)
    is_quiet = any(now - m.heard_at > 2 * limits.beat_seconds and not m.has_ended for m in members)
    if now - failed_at < GRACE_SECONDS or is_quiet:
        return None
    member = members[rank]
    return Verdict(f"rank {rank} on {member.where['host']} failed in {member.place} ({member.failure})", rank)


def _is_stuck(members: Sequence[Member], now: float, limits: Limits) -> bool:
    """Whether no rank has moved on for too long."""
    return now - max(member.moved_at for member in members) > limits.hang_seconds


def _of_the_hang(members: Sequence[Member], limits: Limits) -> Verdict:
    """Name all ranks by where they are, the likely culprit first: ranks that wait for another one are many, are at the
    same line, and are further than it."""
    groups: dict[tuple[int, str], list[int]] = {}
    for rank, member in enumerate(members):
        groups.setdefault((member.where["step"], f"{member.place}, {member.frame}"), []).append(rank)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], len(group[1])))
    found = "; ".join(f"rank {_ranges(ranks)} in {place}" for (_, place), ranks in ordered)
    return Verdict(f"nothing moved for {limits.hang_seconds:.0f} s: {found}", ordered[0][1][0])


def _ranges(ranks: Sequence[int]) -> str:
    """[0, 2, 3, 4] -> '0, 2-4'"""
    parts: list[str] = []
    for rank in ranks:
        if parts and rank - 1 == int(parts[-1].rpartition("-")[2]):
            parts[-1] = f"{parts[-1].partition('-')[0]}-{rank}"
        else:
            parts.append(str(rank))
    return ", ".join(parts)
