"""A rank of pretraining with a fault in it: python -m tests.support.faulty_ranks RECIPE [overrides], with FAULT in the
environment: {"point": "backward", "rank": 1, "step": 5, "action": "kill"}

Points are the phases that the watchdog knows, and places inside them that are patched here: `inside forward` and
`inside backward` of a middle block, `collective` while the other ranks wait in it, and places in a save.
"""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.multiway import MultiwayBlock
from model.residual import Branch
from pretrain import train
from pretrain.checkpoints import background_files as rank_files
from pretrain.checkpoints import manifest
from pretrain.checkpoints import saver as checkpoint
from pretrain.jobs import pretraining
from pretrain.survival import agreement
from pretrain.survival.stop import end_process
from pretrain.survival.watchdog import Watchdog

HANG_SECONDS = 600.0


class Fault:
    """A fault that strikes once."""

    def __init__(self, point: str, rank: int | None, step: int, action: str, seed: int = 0):
        """rank: None for all ranks; step: the first one at which the fault may strike."""
        self.point, self.step, self.action = point, step, action
        self.is_here = rank in (None, int(os.environ["RANK"]))
        self.current_step = -1
        self.is_poisoned = False
        self.round_seconds, self.last_round = 0.0, time.monotonic()
        self.random = random.Random(seed)

    def strike(self, point: str) -> None:
        if point == self.point:
            now = time.monotonic()
            self.round_seconds, self.last_round = now - self.last_round, now
        if self.is_here and point == self.point and self.current_step >= self.step:
            self.is_here = False
            getattr(self, self.action)()

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_soon(self) -> None:
        """Kill at a random moment until the middle of the next round; a rank reaches this point once per step."""
        threading.Timer(self.random.uniform(0, 1.5) * self.round_seconds, self.kill).start()

    def hang(self) -> None:
        time.sleep(HANG_SECONDS)

    def freeze(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    def poison(self) -> None:
        """Make the output of the current forward not finite."""
        self.is_poisoned = True

    def poison_on(self) -> None:
        self.is_poisoned = self.is_here = True

    def fail(self) -> None:
        raise MemoryError("no memory is left")

    def leave(self) -> None:
        end_process(3)

    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def preempt(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


def install(fault: Fault) -> None:
    """Put the fault into the places where it may strike."""
    known_at = Watchdog.at

    def at(self: Watchdog, phase: str, step: int | None = None) -> None:
        known_at(self, phase, step)
        fault.current_step = fault.current_step if step is None else step
        fault.strike(phase)

    Watchdog.at = at  # type: ignore[method-assign]

    known_forward = MultiwayBlock.forward

    def forward(self: MultiwayBlock, *args: Any) -> tuple[torch.Tensor, Branch]:
        fault.strike("inside forward")
        x, branch = known_forward(self, *args)
        if fault.is_poisoned:
            fault.is_poisoned = False
            x = x * float("nan")
        if x.requires_grad:
            x.register_hook(lambda gradient: fault.strike("inside backward"))
        return x, branch

    MultiwayBlock.forward = forward  # type: ignore[method-assign, assignment]

    def summed_over_ranks(values: torch.Tensor, group: dist.ProcessGroup | None = None) -> torch.Tensor:
        work = dist.all_reduce(values, group=group, async_op=True)
        fault.strike("collective")
        work.wait()
        return values

    for module in (agreement, pretraining):
        module.summed_over_ranks = summed_over_ranks  # type: ignore[attr-defined]

    around(rank_files.BackgroundCheckpointEngine, "save", fault, "snapshot")
    around(rank_files, "write_file", fault, "file")
    around(checkpoint, "write_manifest", fault, "manifest")
    around(Path, "rename", fault, "rename", lambda path, *_: path.name.endswith(".partial") and path.is_dir())

    known_write = rank_files._HashingFile.write

    def write(self: Any, data: Any) -> int:
        written = known_write(self, data)
        if self.num_bytes > 10_000:
            self.file.flush()
            fault.strike("inside file")
        return written

    rank_files._HashingFile.write = write  # type: ignore[method-assign]

    known_text = Path.write_text

    def write_text(self: Path, text: str, *others: Any) -> int:
        if self.name == manifest.MANIFEST_NAME:
            known_text(self, text[: len(text) // 2])
            fault.strike("inside manifest")
        return known_text(self, text, *others)

    Path.write_text = write_text  # type: ignore[method-assign,assignment]


def around(
    owner: Any, name: str, fault: Fault, point: str, counts: Callable[..., bool] = lambda *arguments: True
) -> None:
    """Let the fault strike before and after a function."""
    known = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        is_one = counts(*arguments)
        if is_one:
            fault.strike(f"before {point}")
        result = known(*arguments, **named)
        if is_one:
            fault.strike(f"after {point}")
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    if os.environ["OUTPUT"]:
        for descriptor in (1, 2):
            os.dup2(os.open(os.environ["OUTPUT"], os.O_WRONLY), descriptor)
    install(Fault(**json.loads(os.environ["FAULT"])))
    train.main()
