"""The contrastive stage on paper, against one that is run, and against formulas."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from model.config import Checkpointing, CheckpointingMode, KernelChoice
from model.dual_encoder import DualEncoder
from model.initialization import init_weights
from pretrain.config.contrast import ContrastConfig
from pretrain.jobs.contrast import contrast_work
from pretrain.jobs.global_contrast import global_contrast
from pretrain.planning.assumptions import GPUS, Assumptions
from pretrain.planning.contrast_kind import contrast_of_a_rank, meta_dual_micro_step
from pretrain.planning.kinds import kind_of
from pretrain.planning.live_memory import LiveMemory
from pretrain.planning.memory import count_pieces, rank_memory
from pretrain.planning.micro_step_memory import micro_step_memory
from pretrain.planning.micro_step_work import WorkCounter, micro_step_work
from pretrain.planning.plan import plan
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.roofline import PhaseWork, gpu_seconds
from pretrain.planning.stages import step_traffic
from pretrain.planning.step_times import AssumedMachine, step_time
from pretrain.recipes import CONTRAST_RECIPES
from tests.support.contrast_plans import small_contrast
from tests.support.memory_ranks import memory_config, real
from tests.support.mistakes import only_rank, only_rank_without_threads
from tests.support.step_memory import free_gradients, peak_of

FAST_HOST = AssumedMachine(GPUS["h100"], Assumptions(host_speed=1e6))
EIGHT_PAIRS = MicroBatch(0, 8, 0)


def with_masked_data() -> ContrastConfig:
    config = small_contrast()
    data = replace(config.data, images=("data/images",), texts=("data/texts",), text_length=config.data.caption_length)
    return replace(
        config, data=data, masked_data_weight=0.5, visual_tokenizer=Path("none.pt"), images_per_step=4, texts_per_step=4
    )


def check_plan(config: ContrastConfig, batch: MicroBatch, kernels: KernelChoice, device: str = "cpu") -> None:
    """Assert that the forward of all pairs, the loss and the backward allocate what was planned."""
    model = DualEncoder(config.model, config.heads, kernels, config.activation_checkpointing)
    init_weights(model, config.model, 0)
    model = model.to(device, config.dtype)
    free_gradients(model)
    micro = real(meta_dual_micro_step(config, batch), device)

    def step() -> None:
        outputs = model(micro.inputs, micro.drop_path_scale, micro.targets)
        found = global_contrast(outputs.images.detach(), outputs.texts.detach(), outputs.logit_scale.detach(), None)
        loss = (outputs.images * found.image_gradient).sum() + (outputs.texts * found.text_gradient).sum()
        loss = loss + outputs.logit_scale + (0 if outputs.masked_losses is None else outputs.masked_losses.sum())
        loss.backward()

    with only_rank("nccl" if device == "cuda" else "gloo"):
        measured = peak_of(step, device)
    planned = micro_step_memory(config, batch, kernels).activations
    print(f"planned / measured: {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("name", ["contrast", "checkpointed", "with masked data"])
def test_a_step_allocates_what_was_planned(name: str) -> None:
    if name == "with masked data":
        check_plan(with_masked_data(), MicroBatch(4, 8, 4), "reference")
        return
    mode: CheckpointingMode = "full" if name == "checkpointed" else "none"
    check_plan(small_contrast(activation_checkpointing=Checkpointing(mode)), EIGHT_PAIRS, "reference")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_allocates_what_was_planned() -> None:
    check_plan(replace(CONTRAST_RECIPES["contrast_base"](), pairs_per_step=64), MicroBatch(0, 64, 0), "triton", "cuda")


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("equal_texts", ["negatives", "ignored"])
def test_the_loss_on_paper_is_that_of_a_run(
    loss: Literal["softmax", "sigmoid"], equal_texts: Literal["negatives", "ignored"]
) -> None:
    config = small_contrast(pairs_per_step=256, loss=loss, equal_texts=equal_texts)
    numbers = torch.arange(256) % 9 if equal_texts == "ignored" else None
    images, texts = torch.randn(2, 256, config.model.dim)
    bias = torch.tensor(-10.0) if loss == "sigmoid" else None
    with only_rank(), WorkCounter() as ran:
        global_contrast(images, texts, torch.tensor(0.0), bias, pair_numbers=numbers)
    with WorkCounter() as planned:
        contrast_of_a_rank(config, 256)
    expected = {"softmax": 12, "sigmoid": 8}[loss] * 256**2 * config.model.dim
    assert flops(planned.work_so_far()) == flops(ran.work_so_far()) == expected
    peaks = []
    for run in (
        lambda: global_contrast(images, texts, torch.tensor(0.0), bias, pair_numbers=numbers),
        lambda: contrast_of_a_rank(config, 256),
    ):
        with only_rank_without_threads(), LiveMemory() as memory:
            run()
        peaks.append(memory.peak)
    given = images.nbytes + texts.nbytes  # a plan allocates the rank's own features too
    assert peaks[1] - given == pytest.approx(peaks[0], rel=0.1)


def flops(*phases: PhaseWork) -> int:
    """Return the operations of matrix products."""
    found = Counter({op: n for phase in phases for op, n in phase.operations.items()})
    return sum(count * operation.flops for operation, count in found.items() if operation.part == "products")


def test_the_counted_products_are_those_that_a_run_logs() -> None:
    config = small_contrast()
    work = micro_step_work(config, EIGHT_PAIRS, "reference")
    attention = sum(op.flops * n for op, n in work.forward.operations.items() if op.part == "attention forward")
    logged = contrast_work(config, 0, (config.data.caption_length,) * 8, ()).flops
    logits = 3 * 2 * 8 * 8 * config.model.dim  # computed outside of the network
    assert flops(work.forward) + flops(work.backward) + 3 * attention == logged - logits
    assert kind_of(config).step_flops(config) == logged
    assert flops(work.once) == 2 * logits  # by rows and by columns, each twice, but no backward through them


def test_micro_steps_but_the_first_run_forward_twice() -> None:
    config, memory = small_contrast(), memory_config(3)
    halves = replace(config, gradient_accumulation_steps=2)
    one, two = (step_time(each, memory, 1, FAST_HOST) for each in (config, halves))
    work = micro_step_work(halves, MicroBatch(0, 4, 0), "triton")
    forward = gpu_seconds(work.forward, FAST_HOST.gpu.in_precision("float32"), FAST_HOST.assumed)
    assert two.parts["attention forward"] == pytest.approx(3 * forward["attention forward"])  # of two halves, one twice
    assert two.flops == one.flops and two.seconds > one.seconds
    assert kind_of(halves).num_forwards_again(halves) == 1


def test_features_are_gathered_and_zero3_gathers_weights_for_each_forward() -> None:
    config, memory = small_contrast(), memory_config(3)
    features = 4 * config.pairs_per_step * (2 * config.model.dim + 2)  # and two numbers per pair
    *zero, gathered = step_traffic(config, memory, 2)
    assert gathered.num_bytes == features and gathered.sent_bytes == features // 2
    weights = 4 * count_pieces(config, 0).total
    halves = step_traffic(replace(config, gradient_accumulation_steps=2), memory, 2)
    assert sum(each.num_bytes for each in halves[:-1]) == 2 * sum(each.num_bytes for each in zero) + weights


def test_a_plan_has_the_parts_of_a_dual_encoder_and_its_command() -> None:
    text = plan(small_contrast(), 2, FAST_HOST, arguments=("contrast_base",))
    for name in ("vision head", "language head", "logit scale"):
        assert re.search(rf"^{name} +[\d,]+ ", text, re.MULTILINE), name
    assert "mim head" not in text and "\npair " not in text and "1 micro-step of 4 pairs a rank" in text
    assert "--module pretrain.contrast contrast_base" in text and "IMGLISH_MODULE=pretrain.contrast sbatch" in text


def test_masked_data_beside_it_is_planned_with_its_heads_and_tokenizer() -> None:
    config = with_masked_data()
    plain, beside = small_contrast(), config
    assert count_pieces(beside, 0).total > count_pieces(plain, 0).total
    memory = rank_memory(beside, memory_config(1), 1, "reference", "cpu")
    assert memory.tokenizer > 0 and memory.batch > rank_memory(plain, memory_config(1), 1, "reference", "cpu").batch
    assert kind_of(beside).step_flops(beside) > 2 * kind_of(plain).step_flops(plain)
