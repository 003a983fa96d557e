"""The main rank's side of rank_links.py: which connections are accepted and which admitted."""

import hmac
import selectors
import socket
import time
from contextlib import suppress
from typing import Any

from pretrain.survival.console import warn
from pretrain.survival.rank_links import GREETING_SECONDS, Link, proof

MAX_STRANGERS = 256
"""Connections without proof; the oldest is dropped for a new one. A rank that is dropped by that connects again."""


class Reception:
    """The main rank's listeners, and the connections that have not proved yet to be a rank's."""

    def __init__(self, listeners: list[socket.socket], secret: bytes, world_size: int):
        self.listeners, self.secret, self.world_size = listeners, secret, world_size
        self.selector = selectors.DefaultSelector()
        for listener in listeners:
            listener.setblocking(False)
            self.selector.register(listener, selectors.EVENT_READ, None)
        self.strangers: list[Link] = []
        self._has_warned = False

    def wait(self, timeout_seconds: float) -> list[Link]:
        """Accept new connections; return those on which something has arrived."""
        ready = []
        for key, _ in self.selector.select(timeout_seconds):
            if key.data is not None:
                ready.append(key.data)
            elif key.fileobj in self.listeners:
                self._accept(key.fileobj)  # type: ignore[arg-type]
        now = time.monotonic()
        for link in [link for link in self.strangers if now - link.accepted_at > GREETING_SECONDS]:
            self.drop(link)
        return [link for link in ready if link.connection.fileno() >= 0]

    def _accept(self, listener: socket.socket) -> None:
        while len(self.strangers) >= MAX_STRANGERS:
            self.drop(self.strangers[0])
        with suppress(OSError):  # it was closed again already
            connection, _ = listener.accept()
            connection.setblocking(False)
            link = Link(connection, time.monotonic())
            self.strangers.append(link)
            self.selector.register(connection, selectors.EVENT_READ, link)
            link.send({"challenge": link.challenge.hex()})

    def admit(self, link: Link, message: dict[str, Any]) -> bool:
        """Return whether a message proves that the connection is a rank's, and take it as that rank's if so."""
        rank, shown = message.get("rank"), message.get("proof")
        if type(rank) is not int or not 0 <= rank < self.world_size or not isinstance(shown, str):
            return False
        if not hmac.compare_digest(shown.encode(), proof(self.secret, link.challenge, rank).encode()):
            return False
        link.rank = rank
        self.strangers.remove(link)
        link.send({"welcome": True})
        return True

    def drop(self, link: Link) -> None:
        """Close a connection; warn of the first that is a stranger's."""
        if link in self.strangers:
            self.strangers.remove(link)
            if not self._has_warned:
                self._has_warned = True
                warn(
                    f"warning: the watchdog dropped a connection from {_peer(link)} that is not one of this run's ranks"
                )
        with suppress(KeyError, ValueError):
            self.selector.unregister(link.connection)
        link.connection.close()

    def close(self) -> None:
        """Stop listening, once all ranks are connected."""
        for listener in self.listeners:
            self.selector.unregister(listener)
            listener.close()
        self.listeners = []
        for link in list(self.strangers):
            self.drop(link)

    def close_in_child(self) -> None:
        """Close the connections in a forked child. The selector is shared with the parent: nothing is unregistered."""
        for connection in (*self.listeners, *(link.connection for link in self.strangers)):
            connection.close()


def _peer(link: Link) -> str:
    try:
        return str(link.connection.getpeername()[0])
    except OSError:
        return "a closed connection"
