"""A port that is taken: one sentence from the main rank, and no rank that waits. As a module, this file is a rank."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pretrain.survival import meeting
from tests.support.faults import few_now
from tests.support.launch import run_ranks
from tests.support.ports import reserved_port
from tests.support.tiny_run import TinyData

TIMEOUT = timedelta(seconds=60)


def sentence(port: int) -> str:
    return (
        f"error: port {port}, where the ranks meet, is taken by another program, perhaps another run; give the "
        f"launcher another one: deepspeed --master_port {port + 1} ...\n"
    )


@contextmanager
def another_run(num_ranks: int) -> Iterator[int]:
    """Yield the port of a run whose ranks have all met."""
    store = TCPStore("127.0.0.1", 0, num_ranks, is_master=True, wait_for_workers=False)
    store.set("imglish/world_size", str(num_ranks))
    for rank in range(1, num_ranks):
        store.add(f"imglish/rank/{rank}", 1)
    yield store.port


@contextmanager
def another_program(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Yield the port of a program that accepts connections."""
    with socket.create_server(("", 0)) as listener:
        taken = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_second_run_at_the_port_of_a_first_ends_with_one_sentence_on_all_ranks(tiny_data: TinyData) -> None:
    with another_run(2) as port:
        ended = run_ranks(
            2,
            "pretrain.train",
            ["demo", *tiny_data.overrides(tiny_data.folder / "never")],
            environment={"MASTER_PORT": str(port)},
        )
    assert ended.exit_codes == [2, 2], ended.stderr
    assert ended.stderr == [sentence(port), ""]
    assert not (tiny_data.folder / "never").exists()


def http_error(connection: socket.socket) -> None:
    with connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.slow
def test_a_port_that_is_taken_by_something_else_ends_all_ranks_too() -> None:
    others: list[Any] = [
        another_run(3),  # of another size, so that this run's ranks are not its own
        another_program(lambda connection: None),  # sends nothing
        another_program(http_error),
    ]
    for other in others:
        with other as port:
            ended = run_ranks(2, "tests.pretrain.survival.test_meeting", [], environment={"MASTER_PORT": str(port)})
        assert ended.exit_codes == [2, 2], ended.stderr
        assert ended.stderr[0] == sentence(port) and "error" not in ended.stderr[1]


def test_a_rank_of_another_node_reports_it_once_for_its_node() -> None:
    with another_run(2) as port:
        names = {"MASTER_PORT": str(port), "IMGLISH_TEST_LOCAL_RANK": "0"}
        ended = run_ranks(2, "tests.pretrain.survival.test_meeting", [], environment=names)
    assert ended.exit_codes == [2, 2] and ended.stderr == [sentence(port)] * 2


@pytest.mark.parametrize("port", few_now(["many", "65536"], ["0", "-5", ""]))
def test_an_invalid_port_is_refused(port: str) -> None:
    ended = run_ranks(2, "tests.pretrain.survival.test_meeting", [], environment={"MASTER_PORT": port})
    assert ended.exit_codes == [2, 2]
    assert ended.stderr[0].startswith(f"error: MASTER_PORT {port!r} is not a port; give the launcher one")
    assert ended.stderr[1] == ""


@pytest.mark.parametrize("name", ["nowhere.invalid", pytest.param("a..b", marks=pytest.mark.slow)])
def test_a_main_node_without_an_address_is_reported(name: str) -> None:
    ended = run_ranks(1, "tests.pretrain.survival.test_meeting", [], environment={"MASTER_ADDR": name})
    assert ended.exit_codes == [2], ended.stderr
    assert ended.stderr[0].startswith(f"error: MASTER_ADDR {name} has no address (")
    assert ended.stderr[0].endswith("give the launcher the main node's: --master_addr ...\n")


def test_ranks_that_start_late_are_waited_for() -> None:
    with reserved_port() as port:
        names = {"MASTER_PORT": str(port), "IMGLISH_TEST_DELAY": "3"}
        ended = run_ranks(3, "tests.pretrain.survival.test_meeting", [], environment=names)
    assert ended.exit_codes == [0] * 3, ended.stderr


def main() -> None:
    """Meet; the main rank starts late."""
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_RANK"] = os.environ.get("IMGLISH_TEST_LOCAL_RANK", os.environ["LOCAL_RANK"])
    if rank == 0 and "IMGLISH_TEST_DELAY" in os.environ:
        threading.Event().wait(float(os.environ["IMGLISH_TEST_DELAY"]))
    meeting.ANSWER_SECONDS = 3.0
    store = meeting.meet(rank, int(os.environ["WORLD_SIZE"]), TIMEOUT)
    store.set(f"here/{rank}", "yes")
    store.wait([f"here/{other}" for other in range(int(os.environ["WORLD_SIZE"]))], TIMEOUT)
    store.add("gone", 1)
    while rank == 0 and store.add("gone", 0) < int(os.environ["WORLD_SIZE"]):
        threading.Event().wait(0.05)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
