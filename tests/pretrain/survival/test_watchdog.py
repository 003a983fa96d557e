"""The watchdog of a run: attacks on it change nothing, and it names a rank's line of code."""

import contextlib
import json
import socket
import time
import traceback
from pathlib import Path

import psutil

from pretrain.run.run_log import read_log
from pretrain.survival.out_of_memory import REMEDY
from pretrain.survival.watchdog import PROJECT, describe_failure, describe_stack
from tests.support.launch import RankProcess, run_ranks
from tests.support.tiny_run import TinyData


def test_a_run_under_attack_from_its_start_to_its_end_gives_the_same_losses(
    two_ranks: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    """Send the messages that ended runs of earlier versions to every port of the main rank."""
    num_attacks = [0]

    def attack(processes: list[RankProcess]) -> None:
        main_rank = psutil.Process(processes[0].pid)
        while processes[0].poll() is None:
            with contextlib.suppress(psutil.Error, OSError):
                for connection in main_rank.net_connections("tcp"):
                    # torch's own store is not under test
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


def test_a_place_in_code_is_the_innermost_line_and_the_innermost_of_this_project() -> None:
    def line(path: Path, number: int, name: str) -> traceback.FrameSummary:
        return traceback.FrameSummary(str(path), number, name, line="")

    torch_line = line(Path("/site-packages/torch/distributed.py"), 7, "all_reduce")
    ours = line(PROJECT / "pretrain" / "run" / "accumulate.py", 5, "accumulate")
    command = line(PROJECT / "pretrain" / "train.py", 9, "main")
    assert (
        describe_stack([torch_line, ours, command])
        == "distributed.py:7 all_reduce called by accumulate.py:5 accumulate"
    )
    assert describe_stack([ours, command]) == "accumulate.py:5 accumulate"
    assert describe_stack([torch_line, line(PROJECT / ".venv" / "x.py", 1, "f")]) == "distributed.py:7 all_reduce"


def test_a_failure_is_one_line_with_the_remedy_for_a_lack_of_memory() -> None:
    assert describe_failure(RuntimeError("shape\nof many lines")) == "RuntimeError: shape"
    assert describe_failure(RuntimeError("Triton Error [CUDA]: out of memory")).endswith(REMEDY)
