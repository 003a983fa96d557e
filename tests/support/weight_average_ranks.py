"""A rank of small networks whose average is kept: python -m tests.support.weight_average_ranks CASES OUT

CASES is a JSON file of cases by name (`Case`); the main rank writes to OUT, as JSON, what was found in each.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.engine import init_distributed
from pretrain.engine.optimizer import float32_partitions
from pretrain.engine.weight_average import averaged_weights, has_average, settle_average
from pretrain.survival.agreement import FatalRunError
from pretrain.survival.stop import end_process
from tests.support.small_engines import (
    average_by_hand,
    full_average,
    full_weights,
    largest_difference,
    losses,
    plain_losses,
    small_engine,
    train,
)

DECAY = 0.5  # above that of the warmup in the first seven updates, below it in the others
NUM_STEPS = 14
SKIPPED = 3
HALFWAY = 7
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Case:
    """A way to train."""

    zero: dict[str, Any]
    precision: Precision = "float32"
    implementation: Literal["torch", "deepspeed"] = "torch"
    others: dict[str, Any] = field(default_factory=dict)
    """Further blocks of DeepSpeed's configuration."""


def main() -> None:
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    init_distributed(hang_seconds=60)
    results = {name: examined(Case(**case)) for name, case in cases.items()}
    if dist.get_rank() == 0:
        out.write_text(json.dumps(results))
    dist.barrier()


def examined(case: Case) -> dict[str, Any]:
    """Train twice, with an average that is used halfway and without one, and compare."""
    optimizer = OptimizerConfig(
        peak_lr=1e-2, warmup_steps=0, ema_decay=DECAY, implementation=case.implementation, gradient_clip=0.0
    )

    def new() -> deepspeed.DeepSpeedEngine:
        return small_engine(case.zero, optimizer, case.others, precision=case.precision)

    engine = new()
    found: dict[str, Any] = {"said at the start": settle_average(engine, DECAY)}
    initial = full_weights(engine)
    weights = train(engine, range(HALFWAY), DECAY, (SKIPPED,))
    found |= swaps(engine)
    weights += train(engine, range(HALFWAY, NUM_STEPS), DECAY)
    by_hand = average_by_hand(initial, weights, DECAY)
    found["updates"] = len(weights)
    found["difference"] = largest_difference(full_average(engine), by_hand)
    found["difference of the weights"] = largest_difference(weights[-1], by_hand)
    found["said later"] = [settle_average(engine, decay) for decay in (0.0, 0.0, 0.5, 0.5)]
    found["starts from the weights"] = largest_difference(full_average(engine), weights[-1])
    engine.destroy()

    without = new()
    other = train(without, range(NUM_STEPS), 0.0, (SKIPPED,))
    found["keeps none"] = not has_average(without)
    found["trains the same"] = all(torch.equal(other[-1][name], weights[-1][name]) for name in other[-1])
    without.destroy()
    return found


def swaps(engine: deepspeed.DeepSpeedEngine) -> dict[str, Any]:
    """Compute with the average, leaving it in order and by errors; return whether everything was as it should be."""
    engine.eval()
    average, before = full_average(engine), state_of(engine)
    with averaged_weights(engine), torch.no_grad():
        inside = losses(engine, seed=50)
    expected = plain_losses(average, next(engine.module.parameters()).dtype, seed=50)
    found: dict[str, Any] = {
        "losses of the average": float(((inside - expected) / expected).abs().max()),
        "losses of the weights": float(((before[0] - expected) / expected).abs().max()),
        "returns": same(before, state_of(engine)),
    }
    for error in (FatalRunError, ValueError):
        with suppress(FatalRunError, ValueError), averaged_weights(engine):
            raise error("the same on every rank")
        if error is FatalRunError or dist.get_world_size() == 1:
            found[f"returns after {error.__name__}"] = same(before, state_of(engine))
        else:  # an error of a rank alone: no collectives, so only its own float32 weights and average
            found[f"returns after {error.__name__}"] = same(before[1:], own_state(engine))
            with averaged_weights(engine):  # makes the weights of the network again
                pass
    engine.train()
    return found


def state_of(engine: deepspeed.DeepSpeedEngine) -> list[Tensor]:
    """Return the losses of a batch, computed with the weights as they are, and `own_state`."""
    with torch.no_grad():
        return [losses(engine, seed=50), *own_state(engine)]


def own_state(engine: deepspeed.DeepSpeedEngine) -> list[Tensor]:
    """Return this rank's float32 weights and average."""
    partitions = float32_partitions(engine.optimizer)
    averages = [engine.optimizer.optimizer.state[partition]["ema"] for partition in partitions]
    return [tensor.detach().clone() for tensor in (*partitions, *averages)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Return whether two lists of tensors are equal to the bit on every rank."""
    is_same = [torch.equal(a, b) for a, b in zip(one, other, strict=True)]
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, all(is_same))
    return all(everywhere)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "said at the start": lambda said: said == "",
    "updates": lambda number: number == NUM_STEPS - 1,
    "difference": lambda difference: difference < 1e-6,
    "difference of the weights": lambda difference: difference > 1e-3,
    "losses of the average": lambda difference: difference < 1e-6,
    "losses of the weights": lambda difference: difference > 1e-3,
    "returns": bool,
    "returns after FatalRunError": bool,
    "returns after ValueError": bool,
    "said later": lambda said: (
        [line[:50] for line in said]
        == [
            "optimizer.ema_decay is 0: the checkpoint's average",
            "",
            f"the average of the weights starts from those after {NUM_STEPS - 1} updates"[:50],
            "",
        ]
    ),
    "starts from the weights": lambda difference: difference == 0,
    "keeps none": bool,
    "trains the same": bool,
}
"""What must have been found, by name."""

if __name__ == "__main__":
    main()
    end_process(0)
