"""One rank of small networks under DeepSpeed, one after the other: python -m tests.support.engine_ranks CASES OUT

CASES is a JSON file of cases by name (`Case`); the main rank writes to OUT, as JSON, the losses of each case's steps,
and the communication of the last step as counted by DeepSpeed's log.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from model.config import Checkpointing, CheckpointingMode
from model.masked_data_model import MaskedTargets
from model.multiway import MultiwayInputs
from pretrain.engine.engine import build_engine, init_distributed, merged_deepspeed_config
from pretrain.jobs.pretraining import Pretraining
from pretrain.recipes.small import demo
from pretrain.survival.stop import end_process
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets

NUM_STEPS = 4  # DeepSpeed learns the order of modules in the first and compares it between ranks in the second


@dataclass(frozen=True)
class Case:
    """A memory configuration, and the numbers of samples in each micro-step of a step."""

    zero: dict[str, Any]
    micro_steps: list[list[int]]
    """Numbers of images, pairs and texts of each micro-step, all ranks together."""
    checkpointing: CheckpointingMode = "none"


def main() -> None:
    cases, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    init_distributed(hang_seconds=60)
    results = {name: run(Case(**case)) for name, case in cases.items()}
    if dist.get_rank() == 0:
        out.write_text(json.dumps(results))
    dist.barrier()


def run(case: Case) -> dict[str, Any]:
    """Return {"losses": [sum over the global batch per step], "traffic": {operation: {bytes of one call: calls}}}."""
    num_micro_steps = len(case.micro_steps)
    per_step = dist.get_world_size() * num_micro_steps  # only for DeepSpeed's own accounting
    config = replace(
        demo(),
        precision="float32",
        gradient_accumulation_steps=num_micro_steps,
        images_per_step=per_step,
        pairs_per_step=per_step,
        texts_per_step=per_step,
    )
    memory_config = {"zero_optimization": case.zero, "comms_logger": {"enabled": True, "prof_all": True}}
    merged = merged_deepspeed_config(config, memory_config, dist.get_world_size())
    model = tiny_model(checkpointing=Checkpointing(case.checkpointing)).train()
    engine = build_engine(model, config, merged, Pretraining.leaf_modules, Pretraining.undecayed)
    log, losses = deepspeed.comm.comms_logger, []
    for step in range(NUM_STEPS):
        log.reset_data()
        sums = torch.zeros(())
        for number, counts in enumerate(case.micro_steps):
            loss_sums = engine(*own_part(counts, seed=10 * step + number), None)
            sums += loss_sums.detach().sum()
            # DeepSpeed averages the ranks' sums; the scale keeps the gradient from being clipped
            engine.backward(loss_sums.sum() * 1e-3)
            engine.step()
        traffic = {name: {size: record[0] for size, record in sizes.items()} for name, sizes in log.comms_dict.items()}
        dist.all_reduce(sums)
        losses.append(float(sums))
    engine.destroy()
    return {"losses": losses, "traffic": traffic}


def own_part(counts: list[int], seed: int) -> tuple[MultiwayInputs, MaskedTargets]:
    """Return this rank's part of a global micro-batch."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    num_images, num_pairs, num_texts = counts
    inputs = tiny_inputs(num_images, num_pairs, num_texts, seed)
    targets = tiny_targets(inputs, seed=seed)

    def part(tensor: Tensor) -> Tensor:
        return tensor.chunk(world_size)[rank] if len(tensor) else tensor

    def images(tensor: Tensor) -> Tensor:
        return torch.cat([part(tensor[:num_images]), part(tensor[num_images:])])

    of_images = ("images", "image_mask", "image_positions", "visual_token_ids")

    def parts(whole: Any) -> Any:
        tensors = {name: value for name, value in vars(whole).items() if isinstance(value, Tensor)}
        return replace(whole, **{name: (images if name in of_images else part)(t) for name, t in tensors.items()})

    return parts(inputs), parts(targets)


if __name__ == "__main__":
    main()
    end_process(0)
