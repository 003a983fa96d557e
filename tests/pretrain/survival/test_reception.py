"""Admission of connections: strangers are dropped, whatever they send, and cannot end, stop or slow a run."""

import contextlib
import socket
import threading
import time

import pytest

from pretrain.survival import reception
from pretrain.survival.judge import Judge
from pretrain.survival.rank_links import connect, encode, proof
from pretrain.survival.reception import MAX_STRANGERS
from pretrain.survival.verdict import verdict
from tests.support.judges import (
    SECONDS,
    SECRET,
    doors,
    is_dropped,
    port_of,
    stranger,
    wait_for,
)

FOREIGN_LINES = {
    "an earlier version's": b'{"rank": 1, "phase": "start", "step": -1}\n',
    "a failure": b'{"rank": 1, "failed": "evil"}\n{"failed": "evil"}\n',
    "an end": b'{"end": true}\n',
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "binary": bytes(range(256)) + b"\n",
    "no object": b"[1]\n",
    "a number": b"1e999\n",
    "deep": b"[" * 1000 + b"\n",
    "a wrong proof": encode({"rank": 1, "proof": "0" * 64}),
    "a proof that is not text": encode({"rank": 1, "proof": 5}),
    "a proof with other letters": encode({"rank": 1, "proof": "\u00e9"}),
    "a proof for another challenge": encode({"rank": 1, "proof": proof(SECRET, bytes(32), 1)}),
    "a rank that is none": encode({"rank": 7, "proof": proof(SECRET, bytes(32), 7)}),
    "a rank below 0": encode({"rank": -1, "proof": "0" * 64}),
    "a rank that is not a number": encode({"rank": "1", "proof": "0" * 64}),
    "an endless line": b"x" * 100_000,
}


@pytest.mark.parametrize("line", FOREIGN_LINES.values(), ids=FOREIGN_LINES)
def test_a_stranger_is_dropped_whatever_it_sends_and_the_ranks_come_in(line: bytes, judge: Judge) -> None:
    with stranger(judge) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(line)
        assert is_dropped(connection)
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    wait_for(lambda: all(judge.links))
    assert verdict(judge.members, time.monotonic(), judge.limits) is None and judge.is_alive()
    for link in links:
        link.close()


def test_strangers_are_reported_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(reception, "warn", warned.append)
    for _ in range(3):
        with stranger(judge) as connection:
            connection.sendall(b"hello\n")
            assert is_dropped(connection)
    assert warned == ["warning: the watchdog dropped a connection from 127.0.0.1 that is not one of this run's ranks"]


def test_a_thousand_silent_connections_keep_no_rank_out(judge: Judge) -> None:
    crowd = [socket.create_connection(("127.0.0.1", port_of(judge)), SECONDS) for _ in range(900)]
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    assert len(judge.reception.strangers) <= MAX_STRANGERS
    for connection in (*crowd, *links):
        connection.close()


def test_a_slow_stranger_is_dropped_after_a_while(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "GREETING_SECONDS", 0.5)
    with stranger(judge) as connection:
        connection.sendall(b'{"rank": ')
        assert is_dropped(connection)


def test_nobody_is_admitted_once_all_ranks_have_connected(judge: Judge) -> None:
    port = port_of(judge)
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    wait_for(lambda: not judge.reception.listeners)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), SECONDS)
    for link in links:
        link.close()


def test_a_crowd_that_comes_and_goes_while_the_ranks_connect(judge: Judge) -> None:
    is_over = threading.Event()
    port = port_of(judge)

    def crowd() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()

    threads = [threading.Thread(target=crowd, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    links = [connect(doors(judge), 0, SECONDS), connect(doors(judge), 1, SECONDS)]
    is_over.set()
    wait_for(lambda: all(judge.links))
    for link in links:
        link.close()
