"""The main rank's thread: messages that it accepts, and those that it sends to all ranks."""

import socket
from collections.abc import Iterator

import pytest

from pretrain.survival import rank_links
from pretrain.survival.judge import Judge
from pretrain.survival.rank_links import connect, encode
from pretrain.survival.verdict import Limits
from tests.support.judges import SECONDS, doors, is_dropped, listening_judge, wait_for


def test_a_rank_that_reconnects_replaces_its_first_connection(judge: Judge) -> None:
    first, second = (connect(doors(judge), 1, SECONDS) for _ in range(2))
    assert is_dropped(first)
    second.sendall(encode({"phase": "forward", "step": 5, "host": "here"}))
    wait_for(lambda: judge.members[1].where["step"] == 5)
    assert judge.members[1].died_at is None
    second.close()


def test_a_message_of_any_length_is_accepted(judge: Judge) -> None:
    link = connect(doors(judge), 1, SECONDS)
    link.sendall(encode({"failed": "\U0001f600" * 100_000}))
    wait_for(lambda: judge.members[1].failure)
    assert judge.members[1].failure == "\U0001f600" * len(judge.members[1].failure) and judge.links[1]
    link.close()


def messages_of(link: socket.socket, name: str) -> list[object]:
    """Return a field and the rank of the next message that has the field."""
    link.settimeout(SECONDS)
    while True:
        message = rank_links._read_line(link)
        if name in message:
            return [message[name], message.get("rank")]


@pytest.fixture
def ranks(judge: Judge) -> Iterator[list[socket.socket]]:
    """Yield the connections of both ranks, which are at step 5."""
    links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
    for rank, link in enumerate(links):
        link.sendall(encode({"phase": "forward", "step": 5, "host": f"node{rank}"}))
    wait_for(lambda: all(member.where["step"] == 5 for member in judge.members))
    yield links
    for link in links:
        link.close()


def test_when_a_rank_dies_the_others_are_sent_the_verdict(judge: Judge, ranks: list[socket.socket]) -> None:
    ranks[1].close()
    assert messages_of(ranks[0], "verdict") == ["rank 1 on node1 died in forward of step 5", 1]


def test_a_rank_that_ends_as_agreed_may_close_its_connection(judge: Judge, ranks: list[socket.socket]) -> None:
    ranks[1].sendall(encode({"end": True}))
    ranks[1].close()
    wait_for(lambda: judge.links[1] is None)
    assert judge.members[1].has_ended and judge.members[1].died_at is None and judge.is_alive()
    ranks[0].sendall(encode({"end": True}))
    judge.join(SECONDS)
    assert not judge.is_alive()


def test_ranks_are_asked_for_their_place_before_a_hang_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with listening_judge(Limits(silent_seconds=SECONDS, hang_seconds=0.5)) as judge:
        links = [connect(doors(judge), rank, SECONDS) for rank in range(2)]
        for rank, link in enumerate(links):
            assert messages_of(link, "where") == [True, None]
            link.sendall(encode({"frame": f"file.py:{rank} function"}))
        assert messages_of(links[1], "verdict") == [
            "nothing moved for 0 s: rank 0 in start, file.py:0 function; rank 1 in start, file.py:1 function",
            0,
        ]
        for link in links:
            link.close()


def test_a_judge_that_fails_ends_all_ranks_with_a_sentence(judge: Judge, ranks: list[socket.socket]) -> None:
    judge.limits = None  # type: ignore[assignment]
    sentence, rank = messages_of(ranks[1], "verdict")
    assert rank == 0 and str(sentence).startswith("the watchdog on the main rank failed (AttributeError(")
