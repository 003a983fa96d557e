"""Connections of the ranks to the main rank's watchdog, and how strangers are kept out.

The main rank listens at the addresses by which other ranks know it, and only until all of them have connected. Each
connection is sent a random number and has to answer with its HMAC under a secret that the process group shares; all
others are dropped. Messages are not encrypted: on a network that others can read, they reveal where each rank is.

    main rank -> rank   {"challenge": "5f..."}
    rank -> main rank   {"rank": 3, "proof": "a1..."}
    main rank -> rank   {"welcome": true}
"""

import hashlib
import hmac
import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain.survival.console import warn

MAX_LINE_BYTES = 1 << 16
"""Limit of a message; longer ones are shortened before they are sent."""
MAX_GREETING_BYTES = 1 << 10
"""Limit of all that a connection may send before it has proved to be a rank's."""
GREETING_SECONDS = 10.0
"""Time within which it has to prove that."""
Address = tuple[Any, ...]


def encode(message: dict[str, Any]) -> bytes:
    """Return a message as a line; texts are cut so that it stays within MAX_LINE_BYTES."""
    longest = MAX_LINE_BYTES // 16  # a character takes up to twelve bytes in JSON
    cut = {name: value[:longest] if isinstance(value, str) else value for name, value in message.items()}
    return json.dumps(cut).encode() + b"\n"


def network_stack() -> str:
    """Return an identifier that processes share if they reach each other over the loopback interface."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()


def main_addresses() -> list[tuple[int, Address]]:
    """Return the families and addresses that MASTER_ADDR resolves to on this node; none if it does not resolve."""
    try:
        found = socket.getaddrinfo(os.environ["MASTER_ADDR"], 0, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [(family, address) for family, _, _, _, address in found]


@dataclass(frozen=True)
class Doors:
    """Where the main rank listens, and the secret; broadcast to every rank."""

    stack: str
    """network_stack() of the main rank."""
    ports: dict[str, int]
    """Ports by IP address; "" stands for any address of the main node."""
    secret: bytes

    def addresses(self) -> list[tuple[int, Address]]:
        """Return the addresses at which this rank may reach the main rank, best first."""
        if network_stack() == self.stack:
            return [(socket.AF_INET, ("127.0.0.1", self.ports["127.0.0.1"]))]
        known = [(family, address) for family, address in main_addresses() if address[0] in self.ports]
        known = known or (main_addresses() if "" in self.ports else [])
        ports = [self.ports.get(address[0], self.ports.get("", 0)) for _, address in known]
        return [(family, (a[0], port, *a[2:])) for (family, a), port in zip(known, ports, strict=True)]


def open_doors() -> tuple[list[socket.socket], Doors]:
    """Listen on the main rank, and return on every rank where; the others get no listeners. All ranks call it."""
    known: list[tuple[str, list[str]]] = [("", [])] * dist.get_world_size()
    dist.all_gather_object(known, (network_stack(), [str(address[0]) for _, address in main_addresses()]))
    listeners: list[socket.socket] = []
    told: list[Doors | None] = [None]
    if dist.get_rank() == 0:
        elsewhere = [address for stack, addresses in known if stack != known[0][0] for address in addresses]
        is_alone = all(stack == known[0][0] for stack, _ in known)
        listeners, ports = _listen(list(dict.fromkeys(elsewhere)), is_alone, len(known))
        told = [Doors(known[0][0], ports, secrets.token_bytes(32))]
    dist.broadcast_object_list(told)
    assert told[0] is not None
    return listeners, told[0]


def _listen(elsewhere: list[str], is_alone: bool, backlog: int) -> tuple[list[socket.socket], dict[str, int]]:
    """Listen at the loopback address for this node's ranks, and at the addresses where other nodes look for it.

    Returns the listeners, and their ports by address.
    """
    listeners = [socket.create_server(("127.0.0.1", 0), backlog=max(128, backlog))]
    ports = {"127.0.0.1": listeners[0].getsockname()[1]}
    for address in elsewhere:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError):  # not an address of this node, as behind a NAT
            listeners.append(socket.create_server((address, 0), family=family, backlog=max(128, backlog)))
            ports[address] = listeners[-1].getsockname()[1]
    if not is_alone and len(listeners) == 1:
        warn(
            f"warning: {os.environ['MASTER_ADDR']} is not an address of the main node itself, so its watchdog listens "
            "on all interfaces; set MASTER_ADDR to the address of the interface that the nodes share"
        )
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listeners.append(socket.create_server(("", 0), family=family, backlog=max(128, backlog), dualstack_ipv6=both))
        ports[""] = listeners[-1].getsockname()[1]
    return listeners, ports


def connect(doors: Doors, rank: int, timeout_seconds: float) -> socket.socket:
    """Return this rank's connection once it is admitted. Raises OSError, in a sentence, if it is not in that time."""
    deadline, problem = time.monotonic() + timeout_seconds, f"{os.environ['MASTER_ADDR']} has no address"
    while True:
        is_last = time.monotonic() > deadline  # before the attempt: a process that was suspended tries once more
        for family, address in doors.addresses():
            try:
                return _greet(family, address, doors.secret, rank, min(timeout_seconds, GREETING_SECONDS))
            except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                problem = f"{address[0]} port {address[1]}: {error}"
        if is_last:
            raise OSError(
                f"rank {rank} on {socket.gethostname()} cannot reach the main rank's watchdog ({problem}); "
                "open all ports between the nodes"
            )
        time.sleep(0.1)


def _greet(family: int, address: Address, secret: bytes, rank: int, timeout_seconds: float) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_seconds)
        connection.connect(address)
        challenge = bytes.fromhex(_read_line(connection)["challenge"])
        connection.sendall(encode({"rank": rank, "proof": proof(secret, challenge, rank)}))
        if not _read_line(connection).get("welcome"):
            raise OSError("is not admitted")
    except BaseException:
        connection.close()
        raise
    return connection


def _read_line(connection: socket.socket) -> dict[str, Any]:
    """Read one line byte by byte, since what follows belongs to the next reader. Raises OSError or ValueError."""
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(line) > MAX_GREETING_BYTES:
            raise OSError("the connection was closed")
        line += byte
    return dict(json.loads(line))


def proof(secret: bytes, challenge: bytes, rank: int) -> str:
    """Return the answer to a challenge that only a rank of this run can give."""
    return hmac.new(secret, challenge + rank.to_bytes(8, "big"), hashlib.sha256).hexdigest()


@dataclass(eq=False)
class Link:
    """A connection to the main rank."""

    connection: socket.socket
    accepted_at: float
    challenge: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    received: bytes = b""
    rank: int | None = None
    """The rank at the other end, once it has proved to be that."""

    def send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # reading from it will show that it is lost
            self.connection.sendall(encode(message))

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived.

        Raises BlockingIOError if none has, OSError if the connection is lost, EOFError if it was closed, ValueError if
        it holds something else.
        """
        data = self.connection.recv(1 << 16)
        if not data:
            raise EOFError
        limit = MAX_GREETING_BYTES if self.rank is None else MAX_LINE_BYTES
        *lines, self.received = (self.received + data).split(b"\n")
        if any(len(line) > limit for line in (*lines, self.received)) or (self.rank is None and len(lines) > 1):
            raise ValueError("is too long")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("is not a message")
        return messages
