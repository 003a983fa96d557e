"""Connections of ranks to the main rank's watchdog: addresses, proofs, messages."""

import contextlib
import socket
from dataclasses import replace

import pytest

from pretrain.survival import rank_links
from pretrain.survival.judge import Judge
from pretrain.survival.rank_links import Doors, connect, encode
from pretrain.survival.verdict import Limits
from tests.support.judges import (
    SECONDS,
    SECRET,
    doors,
)


def test_a_rank_without_the_secret_is_refused_in_a_sentence(judge: Judge) -> None:
    with pytest.raises(OSError, match=r"rank 1 on .* cannot reach the main rank's watchdog \(127.0.0.1 port "):
        connect(replace(doors(judge), secret=bytes(32)), 1, 0.5)


def own_address() -> str | None:
    """Return this machine's address on a network, None without one; sends nothing."""
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
    listeners, ports = rank_links._listen(["192.0.2.7"], False, 2)  # as behind NAT
    assert set(ports) == {"127.0.0.1", ""} and "main is not an address of the main node itself" in warned[-1]
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
