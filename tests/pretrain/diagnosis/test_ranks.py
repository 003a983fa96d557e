"""The port of the main rank, and two ranks that sum. CPU, seconds."""

import socket
import time
from multiprocessing.connection import Connection

import pytest

from pretrain.diagnosis import ranks


def test_a_port_that_is_taken_is_an_error_that_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        (found,) = ranks.main_port()
        assert found.level == "error" and f"{port} is taken by process" in found.text
        assert "deepspeed --master_port " in found.remedy and f"_port {port} " not in found.remedy
    (found,) = ranks.main_port()
    assert found.level == "ok"


def test_a_port_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "http")
    (found,) = ranks.main_port()
    assert found.level == "error" and "'http' is not a port" in found.text


def test_two_ranks_sum_a_tensor() -> None:
    (found,) = ranks.collective("gloo", 120)
    assert found.level == "ok" and "GB/s" in found.text, found


def test_ranks_that_hang_fail_or_die_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(backend: str, rank: int, port: int, sending: Connection) -> None:
        time.sleep(1000)

    def fail(backend: str, rank: int, port: int, sending: Connection) -> None:
        if rank == 0:
            time.sleep(1000)
        sending.send("failed: RuntimeError: no route to host")

    def die(backend: str, rank: int, port: int, sending: Connection) -> None:
        sending.close()

    for function, seconds, expected in (
        (hang, 0.3, "the ranks did not end within 0.3 s"),
        (fail, 60, "rank 1 failed: RuntimeError: no route to host"),
        (die, 60, "its process died"),
    ):
        monkeypatch.setattr(ranks, "_sum", function)
        (found,) = ranks.collective("gloo", seconds)
        assert found.level == "error" and expected in found.text and "GLOO_SOCKET_IFNAME" in found.remedy
