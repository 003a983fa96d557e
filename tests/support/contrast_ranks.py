"""One rank of tiny dual encoders in contrastive steps, one case after the other:

    python -m tests.support.contrast_ranks CASES OUT

CASES is a JSON file of cases by name (`Case`). The main rank writes to OUT, by name, what torch.save takes: the log
record and the gradients of one step, or what ten steps did to the weights.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from model.objective import OBJECTIVES
from model.stochastic_depth import drop_path_scales
from pretrain.config.contrast import ContrastConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.engine.engine import build_engine, merged_deepspeed_config
from pretrain.engine.optimizer import float32_partitions
from pretrain.jobs.contrast import Contrast, ContrastStep
from pretrain.jobs.dual_micro_step import DualMicroStep, joined
from pretrain.jobs.micro_step import MicroStep
from pretrain.jobs.pretraining import MaskedLosses
from pretrain.recipes.contrast import contrast_demo
from pretrain.run.parameter_bounds import keep_within
from pretrain.survival.stop import end_process
from tests.support.step_ranks import MOVING, STILL, gradients_of, run_cases, take, weights_kept, whole
from tests.support.tiny import CONFIG, tiny_dual_encoder, tiny_dual_inputs, tiny_inputs, tiny_targets

NUM_PAIRS = 16
NUM_UP, NUM_DOWN = 6, 2
"""Steps that ask for a higher and then for a lower scale, of about 1 each: from 1.5 to ln 100 and back."""
DROP_PATH_RATE = 0.3
MASKED_WEIGHT = 0.5
LOSS_WEIGHTS = (1.0, 1.0, 0.7, 1.3)
"""Weights of the four losses of masked data modeling."""


@dataclass(frozen=True)
class Case:
    """A run of contrastive steps."""

    does: Literal["one step", "ten steps", "scale at its bound"]
    stage: int = 3
    num_micro_steps: int = 1
    loss: Literal["softmax", "sigmoid"] = "softmax"
    is_masked: bool = False
    """Whether masked data modeling of the same number of pairs goes on beside it."""
    precision: Literal["float32", "bfloat16"] = "float32"
    num_texts: int = NUM_PAIRS
    """How many of the texts count as different; equal ones are ignored."""


def one_step(case: Case) -> dict[str, Any]:
    engine, _ = built(case, STILL)
    return gradients_of(engine, lambda step: take_step(engine, case, step))


def ten_steps(case: Case) -> dict[str, Any]:
    engine, _ = built(case, MOVING)
    return weights_kept(engine, lambda step: take_step(engine, case, step))


def scale_at_its_bound(case: Case) -> dict[str, Any]:
    """Return logit_scale, float32 and as the network has it, in steps that ask for more, then for less of it."""
    engine, job = built(case, OptimizerConfig(peak_lr=1.0, min_lr=1.0, beta1=0.0, gradient_clip=0.0))
    keep_within(engine, job.bounds)
    found = []
    for direction in [-1] * NUM_UP + [1] * NUM_DOWN:
        outputs = engine(micro_steps(case, 0)[0].inputs)
        used = outputs.logit_scale.item()
        engine.backward(outputs.logit_scale * direction + 0 * (outputs.images.sum() + outputs.texts.sum()))
        engine.step()
        found.append((float(whole(engine, float32_partitions(engine.optimizer))["logit_scale"]), used))
    engine.destroy()
    return {"bound": math.log(100), "found": found}


def built(case: Case, optimizer: OptimizerConfig) -> tuple[deepspeed.DeepSpeedEngine, Contrast]:
    """Return an engine as a run builds it, and its job."""
    recipe = contrast_demo()
    config: ContrastConfig = replace(
        recipe,
        model=replace(CONFIG, drop_path_rate=DROP_PATH_RATE),
        data=replace(recipe.data, caption_length=CONFIG.max_text_length, text_length=CONFIG.max_text_length),
        pairs_per_step=NUM_PAIRS,
        gradient_accumulation_steps=case.num_micro_steps,
        loss=case.loss,
        precision=case.precision,
        optimizer=optimizer,
        masked_data_weight=MASKED_WEIGHT if case.is_masked else 0.0,
        visual_tokenizer=Path("none") if case.is_masked else None,
    )
    job = Contrast(config, torch.device("cpu"))
    memory_config = {"zero_optimization": {"stage": case.stage, "memory_efficient_linear": False}}
    merged = merged_deepspeed_config(config, memory_config, dist.get_world_size())
    model = tiny_dual_encoder(config.heads).train()
    return build_engine(model, config, merged, job.leaf_modules, job.undecayed, job.lr_scale), job


def take_step(engine: deepspeed.DeepSpeedEngine, case: Case, step: int) -> dict[str, Any]:
    """Take a step on this rank's part of a global batch; return the log record."""
    parts, masked = micro_steps(case, step), None
    if case.is_masked:
        weights = torch.tensor(LOSS_WEIGHTS) * MASKED_WEIGHT
        masked = MaskedLosses((part.targets for part in parts if part.targets is not None), weights, OBJECTIVES)
    numbers = None
    if case.num_texts < NUM_PAIRS:
        numbers = text_numbers(case).chunk(dist.get_world_size())[dist.get_rank()]
    return take(engine, ContrastStep(engine, parts, masked, numbers))


def text_numbers(case: Case) -> Tensor:
    """Return the numbers of the texts of the global batch, (NUM_PAIRS,) int64, equal ones in every part of it."""
    return torch.arange(NUM_PAIRS) % case.num_texts


def micro_steps(case: Case, step: int) -> list[DualMicroStep]:
    """Return this rank's micro-steps of a global batch, which is the same for any number of ranks and of them."""
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    inputs, masked = global_batch(case.is_masked, step)
    num_parts = dist.get_world_size() * case.num_micro_steps
    first = dist.get_rank() * case.num_micro_steps

    def part(whole: Any, number: int) -> Any:
        """Return a part of every tensor; all of them have as many rows as there are pairs, or none."""
        tensors = {name: value for name, value in vars(whole).items() if isinstance(value, Tensor)}
        return replace(whole, **{name: t.chunk(num_parts)[number] if len(t) else t for name, t in tensors.items()})

    found = []
    for number in range(first, first + case.num_micro_steps):
        dual = part(inputs, number)
        dual = replace(dual, images=dual.images.to(dtype), text_lengths=lengths(dual.text_padding), caption_lengths=())
        ids, targets = torch.arange(NUM_PAIRS).chunk(num_parts)[number], None
        uses = [ids, ids + NUM_PAIRS]
        if masked is not None:
            pairs, targets = part(masked.inputs, number), part(masked.targets, number)
            pairs = replace(
                pairs,
                images=pairs.images.to(dtype),
                caption_lengths=lengths(pairs.caption_padding),
                text_lengths=(),
            )
            dual = joined(dual, MicroStep(pairs, targets, None))
            uses = [ids, ids + 2 * NUM_PAIRS, ids + NUM_PAIRS]  # images, pairs, texts
        scales = drop_path_scales(0, torch.cat(uses), CONFIG.depth, DROP_PATH_RATE)
        found.append(DualMicroStep(dual, scales, targets))
    return found


def global_batch(is_masked: bool, step: int) -> tuple[Any, MicroStep | None]:
    """Return images and texts for the dual encoder, and the pairs of masked data modeling."""
    inputs = tiny_dual_inputs(NUM_PAIRS, NUM_PAIRS, seed=step)
    if not is_masked:
        return inputs, None
    pairs = tiny_inputs(0, NUM_PAIRS, 0, seed=100 + step)
    return inputs, MicroStep(pairs, tiny_targets(pairs, seed=step), None)


def lengths(padding: Tensor) -> tuple[int, ...]:
    return tuple((~padding).sum(1).tolist())


if __name__ == "__main__":
    run_cases(Case, {"one step": one_step, "ten steps": ten_steps, "scale at its bound": scale_at_its_bound})
    end_process(0)
