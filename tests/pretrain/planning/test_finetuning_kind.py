"""Finetuning on paper, against the steps that a run takes. CPU, seconds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from data_pipeline.samples.tasks import Task
from model.captioner import CaptionRules, captions
from model.task_networks import CaptionNetwork, build_task_network
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.mixing import MixingConfig
from pretrain.jobs.finetuning import task_work
from pretrain.jobs.task_micro_step import make_task_micro_step
from pretrain.jobs.task_steps import word_losses
from pretrain.planning.evaluation_cost import evaluation_note
from pretrain.planning.finetuning_kind import meta_task_micro_step
from pretrain.planning.kinds import kind_of
from pretrain.planning.live_memory import tensors_in
from pretrain.planning.memory import micro_batch, rank_memory
from pretrain.planning.micro_step_work import micro_step_work
from pretrain.planning.network_tables import parameter_table
from pretrain.planning.planned_kind import MicroBatch
from pretrain.planning.storage import data_lines
from pretrain.recipes import FINETUNE_RECIPES
from tests.support.task_ranks import LENGTH, NUM_SAMPLES, Case, config_of, global_batch, job_of

TASKS: tuple[Task, ...] = ("vqa", "nlvr2", "caption", "classify")


def small(task: Task, mixup: float = 0.0) -> FinetuneConfig:
    return config_of(Case("one step", task, mixup=mixup))


def shapes(parts: object) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors_in(parts)]


@pytest.mark.parametrize(("task", "mixup"), [*((task, 0.0) for task in TASKS), ("classify", 0.8)])
def test_the_planned_micro_step_has_the_tensors_of_a_run(task: Task, mixup: float) -> None:
    config = small(task, mixup)
    batch = global_batch(config, 0)
    if batch.text_ids is not None:
        batch = replace(batch, text_ids=batch.text_ids.clamp(min=4), text_lengths=(LENGTH,) * NUM_SAMPLES)
    real = make_task_micro_step(config, batch, job_of(config).text_tokenizer)
    planned = meta_task_micro_step(config, NUM_SAMPLES)
    for part in ("inputs", "words"):
        mine, theirs = (getattr(step, part) for step in (planned, real))
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert shapes(vars(mine)) == shapes(vars(theirs))
    assert shapes([planned.targets, planned.drop_path_scale]) == shapes([real.targets, real.drop_path_scale])
    assert planned.smoothing == real.smoothing and isinstance(real.inputs.images, Tensor)


@pytest.mark.parametrize("task", TASKS)
def test_the_operations_of_a_forward_are_counted_as_the_log_has_them(task: Task) -> None:
    config = replace(small(task), label_smoothing=0.0)
    counted = micro_step_work(config, MicroBatch(0, 0, 0, NUM_SAMPLES), "reference").forward
    flops = sum(operation.flops * count for operation, count in counted.operations.items())
    lengths = (LENGTH,) * NUM_SAMPLES if config.has_text else ()
    work = task_work(config, NUM_SAMPLES, lengths).flops
    num_images, patches = NUM_SAMPLES * config.images_per_sample, config.model.num_patches
    pixels = 2 * num_images * patches * 3 * config.model.patch_size**2 * config.model.dim
    # pixels need no gradient, and the embeddings of words are counted as products by neither
    assert (work + pixels) / 3 == pytest.approx(flops, rel=0.02)
    assert kind_of(config).step_flops(config) == work


def test_the_operations_of_written_captions_are_those_of_the_beam_search() -> None:
    config = small("caption")
    config = replace(config, data=replace(config.data, text_length=LENGTH))
    model = config.model
    network = build_task_network(model, config.heads, "reference").eval()
    assert isinstance(network, CaptionNetwork)
    images = torch.zeros(1, 3, model.image_size, model.image_size)
    # no caption ends, so that every beam has all places
    rules = CaptionRules(0, 2, 1, 3, never_ids=(2,), max_length=LENGTH, num_beams=config.evaluation.num_beams)
    batch = global_batch(config, 0)
    assert batch.text_ids is not None
    whole = replace(batch, text_ids=batch.text_ids.clamp(min=4), text_lengths=(LENGTH,) * NUM_SAMPLES)
    losses = make_task_micro_step(replace(config, label_smoothing=0.0), whole, job_of(config).text_tokenizer)
    with torch.no_grad(), FlopCounterMode(display=False) as written:
        captions(network, images, rules)
    with torch.no_grad(), FlopCounterMode(display=False) as read:
        word_losses(network, losses)
    ((num_samples, flops),) = kind_of(config).evaluation_forwards(config)
    assert num_samples == config.evaluation.num_samples
    # the counter does not know the attention of an image, of a pair, and of two tokens per word, midway on average
    num_image_tokens, num_decoded = model.num_image_tokens, 2 * config.evaluation.num_beams * (LENGTH - 1)
    pairs_seen = num_image_tokens**2 + (num_image_tokens + LENGTH) ** 2
    attention = 4 * model.depth * model.dim * (pairs_seen + num_decoded * (num_image_tokens + LENGTH // 2))
    counted = written.get_total_flops() + read.get_total_flops() / NUM_SAMPLES
    assert flops == pytest.approx(counted + attention, rel=0.01)


def test_memory_and_storage_of_a_published_recipe_are_planned() -> None:
    config = replace(FINETUNE_RECIPES["nlvr2_base"](), task_samples_per_step=64, gradient_accumulation_steps=2)
    assert micro_batch(config, 8) == MicroBatch(0, 0, 0, 4)
    stage1 = {"zero_optimization": {"stage": 1}}
    few, many = (rank_memory(config, stage1, ranks, "reference") for ranks in (32, 8))
    assert few.activations < many.activations and few.weights == many.weights
    assert "225,719,810" in parameter_table(config)
    (line,) = data_lines(config)
    assert line.startswith("samples: data/nlvr2")
    assert "with held-out samples it would take" in evaluation_note(
        replace(config, data=replace(config.data, held_out=None)), 8
    )
    drops = FINETUNE_RECIPES["caption_base_480"]()
    assert kind_of(drops).num_forwards_again(replace(drops, gradient_accumulation_steps=4)) == 3
    assert kind_of(config).num_forwards_again(config) == 0


def test_mixtures_are_planned_with_their_soft_labels() -> None:
    config = replace(small("classify"), mixing=MixingConfig(mixup=0.8))
    targets = meta_task_micro_step(config, 4).targets
    assert targets is not None and targets.shape == (4, config.num_classes)
