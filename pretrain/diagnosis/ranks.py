"""Checks of how ranks meet: the port of the main rank, and a collective of two ranks in processes of their own."""

import contextlib
import errno
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Literal

import psutil

from pretrain.diagnosis.findings import Finding
from pretrain.survival.ports import free_port

DEFAULT_PORT = 29500
"""Port of the main rank unless the launcher is given another one."""
NUM_VALUES = 1 << 22
"""Float32 values that the two ranks sum: 17 MB."""
REMEDIES = {
    "gloo": "set GLOO_SOCKET_IFNAME to an interface of ip -br address, and see that no firewall closes local ports",
    "nccl": "run again with NCCL_DEBUG=INFO; NCCL_P2P_DISABLE=1 or NCCL_SHM_DISABLE=1 show which path fails",
}


def main_port() -> Iterator[Finding]:
    """Yield whether the port of the main rank is free on this machine."""
    subject, text = "main rank's port", os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
        yield Finding("error", subject, f"MASTER_PORT {text!r} is not a port", "export MASTER_PORT=29501, or unset it")
        return
    port = int(text)
    if (reason := refusal(port)) is None:
        default = "" if "MASTER_PORT" in os.environ else ", the default of deepspeed,"
        yield Finding("ok", subject, f"{port}{default} is free")
        return
    if reason != errno.EADDRINUSE:
        yield Finding(
            "error", subject, f"{port} cannot be used ({os.strerror(reason)})", f"--master_port {another(port)}"
        )
        return
    held = f"{port} is taken by {holder(port)}"
    yield Finding(
        "error", subject, held, f"end that program, or start with: deepspeed --master_port {another(port)} ..."
    )


def refusal(port: int) -> int | None:
    """Return the error number with which the system refuses to listen at a port, None if it does not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch does
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            return error.errno
    return None


def another(port: int) -> int:
    """Return the next port that is free."""
    return next((other for other in range(port + 1, min(port + 100, 1 << 16)) if refusal(other) is None), free_port())


def holder(port: int) -> str:
    """Return the program that listens at a port; of other users' programs Linux gives no name."""
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                command = " ".join(psutil.Process(one.pid).cmdline())
                return f"process {one.pid} ({command[:80]})"
    return "another program, perhaps another run"


def collective(backend: Literal["gloo", "nccl"], seconds: float) -> Iterator[Finding]:
    """Yield whether two ranks of this machine sum a tensor correctly within some seconds, and how fast."""
    subject = f"two ranks, {backend}"
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    ranks = [context.Process(target=_sum, args=(backend, rank, port, pipes[rank][1]), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for _, sending in pipes:
        sending.close()  # a rank that dies then ends its pipe
    said, deadline = dict[int, str](), time.monotonic() + seconds
    while len(said) < 2 and time.monotonic() < deadline:
        open_pipes = [pipes[rank][0] for rank in range(2) if rank not in said]
        for pipe in wait_for(open_pipes, max(0.0, deadline - time.monotonic())):
            number = next(rank for rank in range(2) if pipes[rank][0] is pipe)
            said[number] = _received(pipes[number][0])
        if any(text.startswith("failed") for text in said.values()):
            break  # the other may wait for it in vain
    for rank in ranks:
        rank.kill()
    yield _finding(subject, backend, said, seconds)


def _finding(subject: str, backend: str, said: dict[int, str], seconds: float) -> Finding:
    if failed := [(rank, text) for rank, text in sorted(said.items()) if text.startswith("failed")]:
        rank, text = failed[0]
        return Finding("error", subject, f"rank {rank} {text}", REMEDIES[backend])
    if len(said) < 2:
        return Finding("error", subject, f"the ranks did not end within {seconds:g} s", REMEDIES[backend])
    return Finding("ok", subject, said[0])


def _received(pipe: Connection) -> str:
    try:
        return str(pipe.recv())
    except EOFError:
        return "failed: its process died"


def _sum(backend: Literal["gloo", "nccl"], rank: int, port: int, sending: Connection) -> None:
    """Sum a tensor over both ranks, in one of them; send what came out of it, in words."""
    try:
        import torch
        import torch.distributed as dist

        is_gpu = backend == "nccl"
        device = torch.device("cuda", rank) if is_gpu else torch.device("cpu")
        if is_gpu:
            torch.cuda.set_device(rank)
        dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        dist.all_reduce(torch.ones(1, device=device))  # connects
        values, started = torch.full((NUM_VALUES,), rank + 1.0, device=device), time.monotonic()
        dist.all_reduce(values)
        is_right = bool((values == 3).all())  # waits for the device
        speed = 4 * NUM_VALUES / (time.monotonic() - started) / 1e9
        sending.send(f"sum a tensor at {speed:.1f} GB/s" if is_right else "failed: the sum is wrong")
    except Exception as error:
        traceback.print_exc()
        sending.send(f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
