"""The main rank's thread of the watchdog: it hears all ranks and sends them the verdict when one is lost.

The rules are in verdict.py, the messages in watchdog.py, and who may connect is decided in reception.py.
"""

import os
import socket
import threading
import time
from typing import Any

from pretrain.survival.rank_links import Link
from pretrain.survival.reception import Reception
from pretrain.survival.verdict import GRACE_SECONDS, Limits, Member, Turns, must_ask, restart_clocks, verdict


class Judge(threading.Thread):
    """Listens until all ranks have ended, or until one is lost."""

    def __init__(self, listeners: list[socket.socket], secret: bytes, world_size: int, limits: Limits):
        super().__init__(name="watchdog judge", daemon=True)
        now = time.monotonic()
        self.limits = limits
        self.members = [Member(now, now) for _ in range(world_size)]
        self.links: list[Link | None] = [None] * world_size
        self.reception = Reception(listeners, secret, world_size)
        os.register_at_fork(after_in_child=self._close)

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # in silence, all would take the main rank for lost
            self._send_all({"verdict": f"the watchdog on the main rank failed ({error!r})", "rank": 0})

    def _watch(self) -> None:
        last_beat = time.monotonic()
        turns = Turns(last_beat)
        while not all(member.has_ended for member in self.members):
            self._hear(min(self.limits.beat_seconds, 0.5))
            now = time.monotonic()
            if turns.was_suspended(now, self.limits):
                restart_clocks(self.members, now)
            found = verdict(self.members, now, self.limits)
            if found is not None:
                self._send_all({"verdict": found.sentence, "rank": found.rank})
                # a process that ends with unread messages resets its connections, and the verdict may be lost with
                # them: hear the other ranks out
                while any(self.links[1:]) and time.monotonic() < now + GRACE_SECONDS:
                    self._hear(0.1)
                return
            if must_ask(self.members, now, self.limits):
                self._send_all({"where": True})
            if now - last_beat > self.limits.beat_seconds:
                self._send_all({"main": f"{self.members[0].place} on {self.members[0].where['host']}"})
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
                    self.members[link.rank].hear(message, now)
        except BlockingIOError:
            return
        except (OSError, EOFError, ValueError, RecursionError):  # a lost rank's, or a stranger's
            self.reception.drop(link)
            if link.rank is not None and self.links[link.rank] is link:
                self.links[link.rank] = None
                self.members[link.rank].disconnect(now)

    def _admit(self, link: Link, message: dict[str, Any]) -> None:
        """Take a connection as that of one of this run's ranks. Raises ValueError if it is a stranger's."""
        if not self.reception.admit(link, message):
            raise ValueError("a stranger")
        assert link.rank is not None
        earlier = self.links[link.rank]
        if earlier is not None:  # the rank did not hear that it was let in, and connected again
            self.reception.drop(earlier)
        self.links[link.rank] = link
        self.members[link.rank].is_connected = True
        if all(self.links):
            self.reception.close()

    def _send_all(self, message: dict[str, Any]) -> None:
        for link in self.links:
            if link is not None:
                link.send(message)

    def _close(self) -> None:
        """Close the copies of the connections in a forked child: they would outlive this process."""
        self.reception.close_in_child()
        for link in self.links:
            if link is not None:
                link.connection.close()
