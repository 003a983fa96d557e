"""Steps of small networks under an engine on several ranks: the part that contrast_ranks.py and task_ranks.py share.

A case is a dataclass whose field `does` names an action. The actions of all cases run one after the other in the same
processes, as starting them takes longest.
"""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from model.stacked_vectors import stacked_rows
from pretrain.checkpoints.partitions import places_in_engine, unstacked
from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.engine import init_distributed
from pretrain.engine.optimizer import float32_partitions
from pretrain.engine.schedule import set_learning_rate
from pretrain.jobs.job import Step
from pretrain.run.accumulate import accumulate
from pretrain.survival.step_guard import StepGuard
from pretrain.survival.watchdog import Watchdog
from tests.support.launch import run_ranks

NUM_STEPS = 10
MOVING_LR = 1e-2
STILL = OptimizerConfig(peak_lr=0.0, min_lr=0.0, weight_decay=0.0, gradient_clip=0.0)
"""Settings for `gradients_of`: the weights stay."""
MOVING = OptimizerConfig(peak_lr=MOVING_LR, min_lr=MOVING_LR, weight_decay=0.5, gradient_clip=1.0)
"""Settings for `weights_kept`."""


class NoWatchdog:
    """Stands for a watchdog that watches nothing."""

    def at(self, place: str) -> None:
        pass


def results(module: str, num_ranks: int, cases: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return by name what the main rank of a module found in the cases."""
    file, out = folder / f"cases_{num_ranks}.json", folder / f"out_{num_ranks}.pt"
    file.write_text(json.dumps({name: asdict(case) for name, case in cases.items()}))
    ended = run_ranks(num_ranks, module, [file, out])
    assert set(ended.exit_codes) == {0}, ended.stderr
    return dict(torch.load(out, weights_only=True))


def run_cases(kind: Callable[..., Any], actions: Mapping[str, Callable[[Any], Any]]) -> None:
    """Run the cases of the file that the command line names; the main rank writes what they find to its second path."""
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    init_distributed(hang_seconds=60)
    found = {name: actions[case["does"]](kind(**case)) for name, case in cases.items()}
    if dist.get_rank() == 0:
        torch.save(found, out)
    dist.barrier()


def take(engine: deepspeed.DeepSpeedEngine, step: Step) -> dict[str, Any]:
    """Take a step; return the log record."""
    record, is_skipped = accumulate(engine, step, StepGuard(0.0, 10), cast(Watchdog, NoWatchdog()))
    assert not is_skipped
    return record


def gradients_of(engine: deepspeed.DeepSpeedEngine, take_step: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Return the log record of a step and the gradients that the optimizer gets, by names in state dicts."""
    found: dict[int, Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for partition in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            found[id(partition)] = partition.grad.clone()

    engine.optimizer.optimizer.register_step_pre_hook(keep)
    record = take_step(0)
    gradients = whole(engine, [found[id(partition)] for partition in float32_partitions(engine.optimizer)])
    engine.destroy()
    return {"record": record, "gradients": gradients}


def weights_kept(engine: deepspeed.DeepSpeedEngine, take_step: Callable[[int], object]) -> dict[str, list[str]]:
    """Return the names of the weights that ten steps changed in any bit, and of the others."""
    before = {name: weight.clone() for name, weight in whole(engine, float32_partitions(engine.optimizer)).items()}
    for step in range(NUM_STEPS):
        set_learning_rate(engine.optimizer, MOVING_LR)
        take_step(step)
    after = whole(engine, float32_partitions(engine.optimizer))
    engine.destroy()
    kept = sorted(name for name in before if torch.equal(before[name], after[name]))
    return {"kept": kept, "changed": sorted(before.keys() - set(kept))}


def whole(engine: deepspeed.DeepSpeedEngine, partitions: list[Tensor]) -> dict[str, Tensor]:
    """Return whole tensors from the parts of all ranks, by names in state dicts; the same on every rank."""
    found = {}
    for name, place in unstacked(places_in_engine(engine), stacked_rows(engine.module)).items():
        parts = [
            partitions[place.group].detach()[start : start + length]
            if owner == dist.get_rank()
            else torch.zeros(length)
            for owner, start, length in place.pieces
        ]
        flat = torch.cat(parts).float()
        dist.all_reduce(flat)
        found[name] = flat.view(place.shape)
    return found
