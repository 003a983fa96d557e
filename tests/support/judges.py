"""The main rank's side of a watchdog for tests, and connections to it that are not from its ranks."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pretrain.survival import rank_links
from pretrain.survival.judge import Judge
from pretrain.survival.rank_links import Doors, network_stack
from pretrain.survival.verdict import Limits

SECRET = bytes(range(32))
SECONDS = 20.0
LIMITS = Limits(SECONDS, SECONDS)


@contextmanager
def listening_judge(limits: Limits = LIMITS) -> Iterator[Judge]:
    """Yield the judge of a run of two ranks, neither of which has connected yet; MASTER_ADDR must be set."""
    judge = Judge([socket.create_server(("127.0.0.1", 0))], SECRET, 2, limits)
    judge.start()
    yield judge
    for member in judge.members:
        member.has_ended = True
    judge.join(SECONDS)
    judge.reception.close()


def port_of(judge: Judge) -> int:
    return int(judge.reception.listeners[0].getsockname()[1])


def doors(judge: Judge) -> Doors:
    return Doors(network_stack(), {"127.0.0.1": port_of(judge)}, SECRET)


def stranger(judge: Judge) -> socket.socket:
    """Return a connection that has received its challenge."""
    connection = socket.create_connection(("127.0.0.1", port_of(judge)), SECONDS)
    assert "challenge" in rank_links._read_line(connection)
    return connection


def is_dropped(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
