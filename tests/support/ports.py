"""TCP ports for processes that tests start: no two test processes get the same one."""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(tempfile.gettempdir()) / f"imglish_test_ports_{os.geteuid()}"
PORTS = range(20_000, 29_000)
"""Ports below those that Linux gives to sockets bound to port 0 (net.ipv4.ip_local_port_range, from 32768)."""


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a free port that no other test process gets until the block ends.

    A port found by binding to port 0 is free only until that socket closes. A file per port is locked instead, by this
    process; the kernel unlocks it however the process ends.
    """
    FOLDER.mkdir(exist_ok=True)
    while True:
        port = random.SystemRandom().choice(PORTS)  # the seed of `random` is the same in every test
        with (FOLDER / str(port)).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if _is_free(port):
                yield port
                return


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like torch's store
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
