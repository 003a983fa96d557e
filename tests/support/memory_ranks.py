"""One training step under DeepSpeed on CPU ranks, its memory measured:

    python -m tests.support.memory_ranks STAGE MICRO_STEPS

Prints JSON: the peak in bytes of memory that the process allocated through torch, from building the model on, and the
number of calls of each collective in the step.
"""

import json
import sys
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from model.initialization import init_weights
from model.masked_data_model import MaskedDataModel
from pretrain.config.pretraining import PretrainConfig
from pretrain.engine.engine import build_engine, init_distributed, merged_deepspeed_config
from pretrain.engine.memory_config import read_memory_config
from pretrain.jobs.micro_step import MicroStep
from pretrain.jobs.pretraining import Pretraining
from pretrain.planning.memory import micro_batch
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.pretraining_kind import meta_micro_step
from pretrain.recipes import RECIPES
from tests.support.allocations import MEASURED, allocations, measured_events, peak_bytes
from tests.support.launch import ROOT


def small_config(world_size: int, num_micro_steps: int) -> PretrainConfig:
    """Return a config wide enough for activations, weights and optimizer to matter; two samples of each kind per
    micro-step."""
    base = RECIPES["beit3_base_shared"]()
    count = 2 * world_size * num_micro_steps
    return replace(
        base,
        model=replace(
            base.model, dim=192, depth=4, num_heads=4, ffn_dim=768, vocab_size=3000, num_visual_tokens=1000,
            num_vl_layers=2, max_text_length=128,
        ),
        data=replace(base.data, text_length=128),
        precision="float32",
        images_per_step=count,
        pairs_per_step=count,
        texts_per_step=count,
        gradient_accumulation_steps=num_micro_steps,
    )  # fmt: skip


def memory_config(stage: int) -> dict[str, Any]:
    """Return a configuration with buckets that are filled several times per step."""
    zero = read_memory_config(ROOT / "ds_configs" / "zero3_cpu.json")["zero_optimization"]
    sizes = {"reduce_bucket_size": 2_000_000, "stage3_prefetch_bucket_size": 1_000_000}
    return {"zero_optimization": zero | sizes | {"stage": stage}}


def random_micro_step(config: PretrainConfig, batch: MicroBatch, device: str = "cpu") -> MicroStep:
    """Return a micro-step of random pixels and factors; hidden words, patches and codes are the first ones."""
    micro: MicroStep = real(meta_micro_step(config, batch), device)
    return micro


def real(value: Any, device: str = "cpu") -> Any:
    """Return a dataclass with tensors on a device in place of those without content, floats random and others 0."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: real(getattr(value, field.name), device) for field in fields(value)})
    if not isinstance(value, Tensor):
        return value
    make = torch.rand if value.is_floating_point() else torch.zeros
    return make(value.shape, dtype=value.dtype, device=device)


def main() -> None:
    stage, num_micro_steps = map(int, sys.argv[1:])
    init_distributed(hang_seconds=60)
    config = small_config(dist.get_world_size(), num_micro_steps)
    merged = merged_deepspeed_config(config, memory_config(stage), dist.get_world_size())
    batch = micro_batch(config, dist.get_world_size())
    with allocations() as events:
        model = MaskedDataModel(config.model, "reference", config.activation_checkpointing)
        init_weights(model, config.model, 0)
        engine = build_engine(model, config, merged, Pretraining.leaf_modules, Pretraining.undecayed)
        del model
        for step in range(3):  # the first differs: ZeRO-3 learns the order of modules
            with record_function(MEASURED if step == 2 else "before"):
                micro_steps = [random_micro_step(config, batch) for _ in range(num_micro_steps)]
                for micro in micro_steps:
                    loss = engine(micro.inputs, micro.targets, micro.drop_path_scale).sum()
                    engine.backward(loss)
                    engine.step()
                    del loss
                del micro_steps, micro
    calls = Counter(event.name for event in measured_events(events) if event.name.startswith("c10d::"))
    print(json.dumps({"peak": peak_bytes(events), "collectives": calls}))


if __name__ == "__main__":
    main()
