"""A rank of pretraining on a virtual device whose streams are watched for races (stream_races.py):

    python -m tests.support.stream_order_ranks PLAN OUT RECIPE [overrides]

PLAN is a JSON file with a list of parts (`Part`), one after the other in this process, each of which starts or resumes
the run. Every rank writes to OUT.RANK, as JSON, the races of each part and the number of operations.
"""

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from deepspeed.accelerator import set_accelerator

from pretrain.config.command_line import parse_recipe
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine import engine
from pretrain.engine.optimizer import float32_partitions
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes import RECIPES
from pretrain.run.loop import train
from pretrain.run.start import start
from pretrain.survival.stop import JobStatus, StopRequest, end_process
from pretrain.survival.watchdog import Watchdog
from tests.support.stream_races import Watch, watched
from tests.support.vector_clocks import Device, VectorClockAccelerator, VirtualStream


class StopAfter(StopRequest):
    """A stop that the main rank asks for in the last of some steps."""

    def __init__(self, run_dir: Path, num_steps: int):
        super().__init__(run_dir)
        self.num_left = num_steps

    @property
    def is_asked_by_file(self) -> bool:
        self.num_left -= 1
        return self.num_left == 0


@dataclass(frozen=True)
class Part:
    """One start of a run."""

    deepspeed_config: str
    num_steps: int
    """The run is stopped after these, with a checkpoint. DeepSpeed compares the order of modules between ranks in the
    first two steps of a start, which makes the host wait for the device."""
    gradient_accumulation_steps: int = 1
    left_out: str = ""
    """The order that is taken away: `gathers`, what this project adds, or `waits`, every wait of a stream."""


def main() -> None:
    plan = [Part(**part) for part in json.loads(Path(sys.argv[1]).read_text())]
    out = Path(sys.argv[2])
    sys.argv = [sys.argv[0], *sys.argv[3:]]
    config = parse_recipe(RECIPES, "tests.support.stream_order_ranks")
    accelerator = VectorClockAccelerator(Device())
    set_accelerator(accelerator)
    with watched(accelerator) as watch:
        engine.init_distributed(config.hang_seconds)
        watchdog = Watchdog(config.silent_rank_seconds, config.hang_seconds)
        results = []
        for part in plan:
            results.append(run_part(part, config, watchdog, watch))
            Path(f"{out}.{dist.get_rank()}").write_text(json.dumps(results))
        dist.barrier()
    watchdog.end()


def run_part(part: Part, config: PretrainConfig, watchdog: Watchdog, watch: Watch) -> dict[str, Any]:
    """Return the races of a start of the run, and how often each timeline and collective was used."""
    config = replace(
        config,
        deepspeed_config=Path(part.deepspeed_config),
        gradient_accumulation_steps=part.gradient_accumulation_steps,
    )
    watch.races.clear()
    watch.seen.clear()
    LEFT_OUT[part.left_out]()
    job = Pretraining(config, engine.state_device({"zero_optimization": {}}))
    run = start(job, watchdog, StopAfter(config.run_dir, part.num_steps), JobStatus())
    if "offload_optimizer" in run.engine.config["zero_optimization"]:
        watch.mark_host(float32_partitions(run.engine.optimizer))
    ending = train(run)
    run.engine.destroy()
    del run
    gc.collect()
    races = [[race.first, race.second, count] for race, count in watch.races.items()]
    return {"ending": ending, "races": races, "seen": dict(watch.seen), "cpu": time.process_time()}


def leave_out_gathers() -> None:
    engine.order_gathers = lambda engine: None  # type: ignore[attr-defined]


def leave_out_waits() -> None:
    VirtualStream.wait_stream = lambda self, other: None  # type: ignore[method-assign]


LEFT_OUT: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "gathers": leave_out_gathers,
    "waits": leave_out_waits,
}

if __name__ == "__main__":
    main()
    end_process(0)
