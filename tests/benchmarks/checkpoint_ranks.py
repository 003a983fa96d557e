"""A rank of pretraining that measures the cost of saving and loading: see bench_checkpoint.py.

Before each checkpoint DeepSpeed saves the same state elsewhere, for comparison.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from pretrain import train
from pretrain.checkpoints import background_files as rank_files
from pretrain.checkpoints.saver import CheckpointSaver
from pretrain.run import start

TIMES = Path(os.environ["TIMES_FOLDER"]) / f"{os.environ['RANK']}.jsonl"


def note(what: str, seconds: float) -> None:
    with TIMES.open("a") as file:
        file.write(json.dumps({"what": what, "seconds": seconds, "at": perf_counter()}) + "\n")


def timed(owner: Any, name: str, what: str) -> None:
    known: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        start = perf_counter()
        result = known(*arguments, **named)
        note(what, perf_counter() - start)
        return result

    setattr(owner, name, wrapped)


def save_as_deepspeed_does(saver: CheckpointSaver) -> None:
    engine, ours = saver.engine, saver.engine.checkpoint_engine
    engine.checkpoint_engine = TorchCheckpointEngine()
    folder = saver.folder.with_name("deepspeeds")
    start = perf_counter()
    engine.save_checkpoint(folder, tag="peer", save_latest=False)
    note("deepspeed", perf_counter() - start)
    engine.checkpoint_engine = ours
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
    dist.barrier()  # the next save must not wait for this one


def main() -> None:
    timed(CheckpointSaver, "begin", "begin")
    timed(rank_files, "write_file", "write")
    timed(start, "agreed_latest_checkpoint", "verify")
    timed(start, "load_checkpoint", "load")
    known = CheckpointSaver.begin
    known_finish = CheckpointSaver.finish

    def finish(saver: CheckpointSaver) -> Path | None:
        start, is_under_way = perf_counter(), saver.step is not None
        folder = known_finish(saver)
        if is_under_way:
            note("finish", perf_counter() - start)
        return folder

    CheckpointSaver.finish = finish  # type: ignore[method-assign,assignment]

    def begin(saver: CheckpointSaver, *arguments: Any) -> None:
        save_as_deepspeed_does(saver)
        known(saver, *arguments)

    CheckpointSaver.begin = begin  # type: ignore[method-assign,assignment]
    train.main()


if __name__ == "__main__":
    sys.argv[0] = "checkpoint_ranks"
    main()
