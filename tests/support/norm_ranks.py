"""One rank of a tiny network whose norms by part are measured: python -m tests.support.norm_ranks OUT [all]

Each case is a memory configuration and a precision. The main rank writes to OUT, as JSON, the norms of a step of each
case with those that plain torch finds in the same network on one process.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from model.stacked_vectors import stacked_rows
from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.engine import build_engine, init_distributed, merged_deepspeed_config
from pretrain.jobs.pretraining import Pretraining
from pretrain.monitoring.part_norms import PartNorms
from pretrain.recipes.small import demo
from pretrain.run.device_copies import DeferredMetrics
from pretrain.survival.stop import end_process
from tests.support.engine_ranks import own_part
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets

COUNTS = [2, 4, 2]
"""Images, pairs and texts of the global batch."""
ZERO: dict[str, dict[str, Any]] = {
    "stage 1": {"stage": 1},
    "stage 2": {"stage": 2},
    "stage 3": {"stage": 3},
    "stage 3 in small groups": {"stage": 3, "sub_group_size": 3000},
    "stage 2 offloaded": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "stage 3 offloaded": {"stage": 3, "offload_optimizer": {"device": "cpu"}},
}
FEW = [
    ("stage 1", "bfloat16", "clipped"),
    ("stage 2", "float32", "clipped"),
    ("stage 3", "bfloat16", "not clipped"),
    ("stage 3 in small groups", "float32", "clipped"),
    ("stage 2 offloaded", "float32", "off"),
    ("stage 3 offloaded", "bfloat16", "clipped"),
]
"""Cases without `all` as the second argument."""
CLIP = {"clipped": 0.01, "not clipped": 1e6, "off": 0.0}
part_of = Pretraining.part_of


def main() -> None:
    init_distributed(hang_seconds=60)
    cases = [(zero, "float32", clip) for zero in ZERO for clip in CLIP]
    cases += [(zero, "bfloat16", "clipped") for zero in ZERO]
    results = {", ".join(case): measured(*case) for case in (cases if sys.argv[2:] == ["all"] else FEW)}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps({"measured": results, "expected": expected()}))
    dist.barrier()


def measured(zero: str, precision: Any, clip: str) -> dict[str, Any]:
    """Return the fields of the log record of three steps, of which the second is not due."""
    num_ranks = dist.get_world_size()
    config = replace(
        demo(),
        precision=precision,
        images_per_step=num_ranks,
        pairs_per_step=num_ranks,
        texts_per_step=num_ranks,
        optimizer=OptimizerConfig(peak_lr=0.0, min_lr=0.0, weight_decay=0.0, gradient_clip=CLIP[clip]),
    )
    merged = merged_deepspeed_config(config, {"zero_optimization": ZERO[zero]}, num_ranks)
    engine = build_engine(tiny_model().train(), config, merged, Pretraining.leaf_modules, Pretraining.undecayed)
    norms = PartNorms(engine, lambda name: part_of(None, name), every_steps=2)  # type: ignore[arg-type]
    inputs, targets = own_part(COUNTS, seed=0)
    if precision == "bfloat16":
        inputs = replace(inputs, images=inputs.images.bfloat16())
    found = []
    for step in range(3):
        norms.begin(step)
        engine.backward(engine(inputs, targets, None).sum() * num_ranks)  # DeepSpeed averages over ranks
        engine.step()
        grad_norm = engine.get_global_grad_norm()
        found.append(DeferredMetrics({"grad_norm": grad_norm, **norms.fields(grad_norm)}).read())
    engine.destroy()
    first, between, third = found
    assert between.keys() == {"grad_norm"} and first == third, found  # a learning rate of 0: the same weights
    return first


def expected() -> dict[str, dict[str, float]]:
    """Return the norms by plain torch, of the whole batch on this process alone, in float32."""
    model = tiny_model().train()
    num_images, num_pairs, num_texts = COUNTS
    inputs = tiny_inputs(num_images, num_pairs, num_texts, seed=0)
    model(inputs, tiny_targets(inputs, seed=0), None).sum().backward()
    squares: dict[str, dict[str, float]] = {"grad_norms": {}, "weight_norms": {}}
    rows = stacked_rows(model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        for field, tensor in (("grad_norms", parameter.grad), ("weight_norms", parameter.detach())):
            pieces = {row.name: tensor.narrow(0, row.start, row.length) for row in rows.get(name, ())} or {name: tensor}
            for own_name, piece in pieces.items():
                part = part_of(None, own_name)  # type: ignore[arg-type]
                squares[field][part] = squares[field].get(part, 0.0) + float(piece.double().square().sum())
    return {field: {part: square**0.5 for part, square in of_field.items()} for field, of_field in squares.items()}


if __name__ == "__main__":
    main()
    end_process(0)
