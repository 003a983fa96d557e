"""The watchdog's connections: ranks come in, strangers do not, and none of them ends, stops or slows a run."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pretrain.run.run_log import read_log
from pretrain.survival import rank_links, reception
from pretrain.survival.judge import Judge
from pretrain.survival.rank_links import Doors, connect, encode, network_stack, proof
from pretrain.survival.reception import MAX_STRANGERS
from pretrain.survival.verdict import Limits, verdict
from tests.support.launch import RankProcess, run_ranks
from tests.support.tiny_run import TinyData

SECRET = bytes(range(32))
SECONDS = 20.0


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """Of a run of two ranks, neither of which has come yet."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    judge = Judge([socket.create_server(("127.0.0.1", 0))], SECRET, 2, Limits(SECONDS, SECONDS))
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
    """A connection that has been sent its challenge."""
    connection = socket.create_connection(("127.0.0.1", port_of(judge)), SECONDS)
    assert "challenge" in rank_links._read_line(connection)
    return connection


def is_dropped(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    "a proof that is no text": encode({"rank": 1, "proof": 5}),
    "a proof with other letters": encode({"rank": 1, "proof": "\u00e9"}),
    "a proof for another challenge": encode({"rank": 1, "proof": proof(SECRET, bytes(32), 1)}),
    "a rank that is none": encode({"rank": 7, "proof": proof(SECRET, bytes(32), 7)}),
    "a rank below 0": encode({"rank": -1, "proof": "0" * 64}),
    "a rank that is no number": encode({"rank": "1", "proof": "0" * 64}),
    "an endless line": b"x" * 100_000,
}


@pytest.mark.parametrize("line", FOREIGN_LINES.values(), ids=FOREIGN_LINES)
def test_a_stranger_is_dropped_whatever_he_sends_and_the_ranks_come_in(line: bytes, judge: Judge) -> None:
    with stranger(judge) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(line)
        assert is_dropped(connection)
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    wait_for(lambda: all(judge.links))
    assert verdict(judge.members, time.monotonic(), judge.limits) is None and judge.is_alive()
    for link in links:
        link.close()


def test_strangers_are_told_of_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(reception, "warn", warned.append)
    for _ in range(3):
        with stranger(judge) as connection:
            connection.sendall(b"hello\n")
            assert is_dropped(connection)
    assert warned == ["warning: the watchdog dropped a connection from 127.0.0.1 that is none of this run's ranks"]


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


def test_nobody_is_let_in_once_all_ranks_have_come(judge: Judge) -> None:
    port = port_of(judge)
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    wait_for(lambda: not judge.reception.listeners)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), SECONDS)
    for link in links:
        link.close()


def test_a_rank_without_the_secret_is_refused_in_a_sentence(judge: Judge) -> None:
    with pytest.raises(OSError, match=r"rank 1 on .* does not reach the main rank's watchdog \(127.0.0.1 port "):
        connect(replace(doors(judge), secret=bytes(32)), 1, 0.5)


def test_a_rank_that_comes_again_takes_the_place_of_its_first_connection(judge: Judge) -> None:
    first, second = (connect(doors(judge), 1, SECONDS) for _ in range(2))
    assert is_dropped(first)
    second.sendall(encode({"phase": "forward", "step": 5, "host": "here"}))
    wait_for(lambda: judge.members[1].where["step"] == 5)
    assert judge.members[1].died_at is None
    second.close()


def test_a_message_of_any_length_is_one_that_is_taken(judge: Judge) -> None:
    link = connect(doors(judge), 1, SECONDS)
    link.sendall(encode({"failed": "\U0001f600" * 100_000}))
    wait_for(lambda: judge.members[1].failure)
    assert judge.members[1].failure == "\U0001f600" * len(judge.members[1].failure) and judge.links[1]
    link.close()


def own_address() -> str | None:
    """Of this machine on a network, if it has one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return None


def test_the_main_rank_listens_where_its_ranks_look_for_it_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr(rank_links, "warn", warned.append)
    monkeypatch.setenv("MASTER_ADDR", "main")
    own = own_address() or "127.0.0.2"
    for elsewhere, is_alone, expected in (
        ([], True, {"127.0.0.1"}),
        ([own], False, {"127.0.0.1", own}),
        (["127.0.1.1", own, "192.0.2.7"], False, {"127.0.0.1", "127.0.1.1", own}),
        (["::1"], False, {"127.0.0.1", "::1"} if socket.has_dualstack_ipv6() else {"127.0.0.1", ""}),
    ):
        listeners, ports = rank_links._listen(elsewhere, is_alone, 2)
        assert set(ports) == expected
        assert {listener.getsockname()[0] for listener in listeners} == expected or "" in expected
        for listener in listeners:
            listener.close()
    assert not warned or not socket.has_dualstack_ipv6()
    listeners, ports = rank_links._listen(["192.0.2.7"], False, 2)  # translated on the way
    assert set(ports) == {"127.0.0.1", ""} and "main is no address of the main node itself" in warned[-1]
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_a_rank_of_another_node_connects_to_the_address_by_which_it_knows_the_main_rank(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    monkeypatch.setenv("MASTER_ADDR", address)
    known = [str(a[0]) for _, a in rank_links.main_addresses()]
    listeners, ports = rank_links._listen(list(dict.fromkeys(known)), False, 1)
    judge = Judge(listeners, SECRET, 1, Limits(SECONDS, SECONDS))
    judge.start()
    link = connect(Doors("another machine", ports, SECRET), 0, SECONDS)
    link.sendall(encode({"end": True}))
    judge.join(SECONDS)
    assert not judge.is_alive()
    link.close()


def test_a_run_under_attack_from_its_start_to_its_end_gives_the_same_losses(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Whatever port the main rank listens at is sent what ended runs of earlier versions."""
    num_attacks = [0]

    def attack(processes: list[RankProcess]) -> None:
        main_rank = psutil.Process(processes[0].pid)
        while processes[0].poll() is None:
            with contextlib.suppress(psutil.Error, OSError):
                for connection in main_rank.net_connections("tcp"):
                    # torch's own store has no such lines; leave it alone
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port != master_port(main_rank):
                        hit(connection.laddr.port)
                        num_attacks[0] += 1
            time.sleep(0.1)

    def hit(port: int) -> None:
        for line in (b'{"rank": 1, "failed": "evil"}\n', b"x" * 5000, b""):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(line)

    arguments = ["demo", *tiny_data.overrides(tmp_path / "run"), "--save-every-steps", 2, "--keep-checkpoints", 2]
    ended = run_ranks(2, "pretrain.train", arguments, while_running=attack)
    assert ended.exit_codes == [0, 0] and num_attacks[0] > 0, ended.stderr
    losses = [[record["loss"] for record in read_log(run_dir)] for run_dir in (tmp_path / "run", two_ranks)]
    assert losses[0] == losses[1]
    assert "evil" not in json.dumps(ended.stderr)


def master_port(process: psutil.Process) -> int:
    return int(process.environ().get("MASTER_PORT", 0))


def test_a_crowd_that_comes_and_goes_while_the_ranks_come_in(judge: Judge) -> None:
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
