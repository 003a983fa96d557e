"""A rank of several starts of pretraining, one after the other: python -m tests.support.successive_runs PLAN OUT

PLAN is a JSON file with a list of starts (`Start`); the main rank writes to OUT, as JSON, how each of them ended.
"""

import gc
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.config.command_line import parse_recipe
from pretrain.engine.engine import init_distributed
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes import RECIPES
from pretrain.run.loop import train
from pretrain.run.start import start
from pretrain.survival.agreement import RunError, on_main_rank
from pretrain.survival.stop import JobStatus, StopRequest, end_process
from pretrain.survival.watchdog import Watchdog


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    arguments: list[str]
    """Those after the module's name."""
    moved_away: str = ""
    """Name of a checkpoint that is moved out of the run's folder before."""


def main() -> None:
    starts, out = [Start(**part) for part in json.loads(Path(sys.argv[1]).read_text())], Path(sys.argv[2])
    init_distributed(hang_seconds=60)
    watchdog = Watchdog(60, 120)
    endings = [ending_of(part, watchdog) for part in starts]
    if dist.get_rank() == 0:
        out.write_text(json.dumps(endings))
    dist.barrier()
    watchdog.end()


def ending_of(part: Start, watchdog: Watchdog) -> str:
    """Train, and return how the run ended: its ending, or the error that it ended with."""
    config = parse_recipe(RECIPES, "tests.support.successive_runs", part.arguments)
    if part.moved_away:
        on_main_rank(move_away, config.run_dir, part.moved_away)
    try:
        run = start(Pretraining(config, torch.device("cpu")), watchdog, StopRequest(config.run_dir), JobStatus())
    except RunError as error:
        return str(error)
    ending = train(run)
    run.engine.destroy()
    del run
    gc.collect()
    return ending


def move_away(run_dir: Path, name: str) -> None:
    shutil.move(run_dir / "checkpoints" / name, run_dir / f"moved_{name}")


if __name__ == "__main__":
    main()
    end_process(0)
