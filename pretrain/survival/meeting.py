"""How the ranks meet: in torch's key-value store at MASTER_ADDR and MASTER_PORT, which the main rank opens.

Another program may hold the port, most often a second run on the same machine. Then the main rank cannot open it, and
the other ranks must not join that program: they would wait forever, or disturb that run.
"""

import os
import socket
import threading
import time
from datetime import timedelta
from typing import NoReturn

from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from pretrain.survival.console import warn
from pretrain.survival.stop import EXIT_RANK_LOST, end_as_mistake, end_process

ANSWER_SECONDS = 30.0
"""Time within which a port that accepts connections has to answer as the main rank of this run."""
_POLL_SECONDS = 0.2


def meet(rank: int, world_size: int, timeout: timedelta) -> Store:
    """Return the store that all ranks share. Ends all ranks, with a sentence, if another program holds the port."""
    host, port = os.environ["MASTER_ADDR"], _port()
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun has opened it already
        return next(rendezvous("env://", timeout=timeout))[0]
    if rank == 0:
        _wait_for_address(host)
        try:
            store = TCPStore(host, port, world_size, is_master=True, timeout=timeout, wait_for_workers=False)
        except RuntimeError as error:
            if "EADDRINUSE" in str(error):
                end_as_mistake(_taken(port))
            end_as_mistake(f"the main rank cannot listen at port {port} ({_first_line(error)}); give another one")
        store.set("imglish/world_size", str(world_size))
        return store
    _wait_until_open(host, port, timeout)
    is_late = threading.Timer(ANSWER_SECONDS, _leave, [port])  # torch waits forever for a program that never answers
    is_late.daemon = True
    is_late.start()
    try:
        store = TCPStore(host, port, world_size, timeout=timeout, wait_for_workers=False)
        store.wait(["imglish/world_size"], timedelta(seconds=ANSWER_SECONDS / 2))
        is_ours = store.get("imglish/world_size") == str(world_size).encode()
        # a count above 1: this is the store of another run, whose rank of this number has joined it
        is_ours = is_ours and store.add(f"imglish/rank/{rank}", 1) == 1
    except RuntimeError:
        is_ours = False
    is_late.cancel()
    if not is_ours:
        _leave(port)
    return store


def _wait_for_address(host: str) -> None:
    """End the main rank if its own name has no address: torch would try in silence until the timeout."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            socket.getaddrinfo(host, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                end_as_mistake(
                    f"MASTER_ADDR {host} has no address ({error}); give the launcher the main node's: --master_addr ..."
                )
        time.sleep(_POLL_SECONDS)


def _wait_until_open(host: str, port: int, timeout: timedelta) -> None:
    """Wait for the main rank, which may still be starting."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                warn(f"error: rank {os.environ['RANK']} does not reach the main rank at {host} port {port} ({error})")
                end_process(EXIT_RANK_LOST)
        time.sleep(_POLL_SECONDS)


def _port() -> int:
    text = os.environ["MASTER_PORT"]
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
        end_as_mistake(
            f"MASTER_PORT {text!r} is not a port; give the launcher one from 1024 to 65535: --master_port 29501"
        )
    return int(text)


def _taken(port: int) -> str:
    another = port + 1 if port < (1 << 16) - 1 else port - 1
    return (
        f"port {port}, where the ranks meet, is taken by another program, perhaps another run; give the launcher "
        f"another one: deepspeed --master_port {another} ..."
    )


def _leave(port: int) -> NoReturn:
    """End a rank whose main rank does not have the port. Reported once per node; on the main rank's by that one."""
    if os.environ["LOCAL_RANK"] == "0":
        warn(f"error: {_taken(port)}")
    end_as_mistake("")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
