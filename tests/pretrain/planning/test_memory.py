"""Planned memory equals the memory that torch allocates."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch

from model.config import Checkpointing, CheckpointingMode, KernelChoice
from model.visual_tokenizer import VisualTokenizer
from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.memory import micro_batch, rank_memory
from pretrain.planning.micro_step_memory import micro_step_memory
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.pretraining_kind import tokenizer_memory
from pretrain.recipes import RECIPES
from pretrain.recipes.small import demo_visual_tokenizer
from tests.support.allocations import allocations, peak_bytes
from tests.support.faults import few_now
from tests.support.launch import run_ranks
from tests.support.memory_ranks import memory_config, random_micro_step, small_config
from tests.support.step_memory import measured_peak, network_without_gradients

BATCH = MicroBatch(3, 3, 3)
TOLERANCE = 0.1


def check_plan(config: PretrainConfig, kernels: KernelChoice, device: str = "cpu") -> None:
    """Assert that forward and backward allocate what was planned."""
    model = network_without_gradients(config, kernels, torch.device(device))
    measured = measured_peak(model, random_micro_step(config, BATCH, device))
    planned = micro_step_memory(config, BATCH, kernels).activations
    print(f"planned / measured: {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("mode", few_now(["selective"], [m for m in get_args(CheckpointingMode) if m != "selective"]))
def test_forward_and_backward_allocate_what_was_planned(mode: CheckpointingMode) -> None:
    config = replace(small_config(1, 1), activation_checkpointing=Checkpointing(mode))
    check_plan(config, "reference")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", get_args(CheckpointingMode))
def test_a_gpu_allocates_what_was_planned(mode: CheckpointingMode) -> None:
    config = replace(RECIPES["beit3_base"](), activation_checkpointing=Checkpointing(mode))
    check_plan(config, "triton", "cuda")


def test_tritons_kernels_are_planned_without_a_gpu_and_save_memory() -> None:
    config = small_config(1, 1)
    plain, fused = (micro_step_memory(config, BATCH, kernels).activations for kernels in ("reference", "triton"))
    assert 0.5 * plain < fused < 0.8 * plain


def test_the_visual_tokenizer_allocates_what_was_planned() -> None:
    visual = demo_visual_tokenizer().model
    tokenizer = VisualTokenizer(visual).requires_grad_(False)
    weights, planned = tokenizer_memory(visual, (8, 3, 48, 48), torch.float32)
    assert weights == sum(tensor.nbytes for tensor in tokenizer.state_dict().values())
    with allocations() as events:
        tokenizer.tokenize(torch.rand(8, 3, 48, 48))
    assert planned == pytest.approx(peak_bytes(events), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("num_ranks", "stage", "num_micro_steps"),
    [(1, 3, 1), (1, 1, 1), (2, 3, 2), (2, 2, 2), (2, 1, 2)],
)
@pytest.mark.slow
def test_a_step_under_deepspeed_allocates_what_was_planned(num_ranks: int, stage: int, num_micro_steps: int) -> None:
    config = small_config(num_ranks, num_micro_steps)
    planned = rank_memory(config, memory_config(stage), num_ranks, "reference", "cpu")
    ended = run_ranks(num_ranks, "tests.support.memory_ranks", [stage, num_micro_steps])
    assert set(ended.exit_codes) == {0}, ended.stderr
    found = [json.loads(output.splitlines()[-1]) for output in ended.stdout]
    measured = max(rank["peak"] for rank in found)
    without_tokenizer = planned.total - planned.tokenizer  # that process has no visual tokenizer
    print(f"planned / measured: {without_tokenizer / measured:.3f}", found[0])
    assert without_tokenizer == pytest.approx(measured, rel=TOLERANCE)
    if num_ranks > 1:
        reduces_whole_buckets = found[0]["collectives"].get("c10d::_reduce_scatter_base_", 0) == 0
        assert reduces_whole_buckets == (stage < 3)


def test_memory_falls_with_ranks_and_micro_steps() -> None:
    config = replace(small_config(4, 2), gradient_accumulation_steps=1)
    one, two = (rank_memory(config, memory_config(3), ranks, "reference") for ranks in (1, 2))
    assert two.optimizer == pytest.approx(one.optimizer / 2, rel=1e-6) and two.activations < 0.7 * one.activations
    halved = rank_memory(replace(config, gradient_accumulation_steps=2), memory_config(3), 1, "reference")
    assert halved.activations == two.activations and halved.optimizer == one.optimizer


def test_a_batch_that_does_not_divide_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="images_per_step 2 must be a multiple of 3 ranks"):
        micro_batch(small_config(1, 1), 3)
