"""Inputs and targets of finetuning steps, whatever the topology. CPU, seconds."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data_pipeline.samples.tasks import Task
from model.objective import IGNORE_INDEX, num_masked
from model.stochastic_depth import drop_path_scales
from pretrain.config.finetune import FinetuneConfig
from pretrain.jobs.task_micro_step import TaskMicroStep, drop_path_scale, make_task_micro_step, task_view
from tests.support.task_ranks import DROP_PATH_RATE, NUM_SAMPLES, Case, Words, config_of, global_batch, job_of

TASKS: tuple[Task, ...] = ("vqa", "nlvr2", "caption", "classify")


def made(config: FinetuneConfig, num_parts: int = 1) -> list[TaskMicroStep]:
    tokenizer = job_of(config).text_tokenizer
    return [make_task_micro_step(config, part, tokenizer) for part in global_batch(config, 3).micro_batches(num_parts)]


def of_samples(task: Task, parts: list[Tensor], dim: int = 0) -> Tensor:
    """Return rows of micro-steps in the order of the samples of the whole; nlvr2 has two groups of them in each."""
    if task != "nlvr2":
        return torch.cat(parts, dim)
    first, second = zip(*(part.chunk(2, dim) for part in parts), strict=True)
    return torch.cat([*first, *second], dim)


@pytest.mark.parametrize(("task", "mixup"), [*((task, 0.0) for task in TASKS), ("classify", 0.8)])
def test_micro_steps_together_are_the_whole_batch(task: Task, mixup: float) -> None:
    config = config_of(Case("one step", task, mixup=mixup))
    (whole,), parts = made(config), made(config, 4)
    for name in ("images", "caption_ids", "caption_padding"):
        found = of_samples(task, [getattr(part.inputs, name) for part in parts])
        assert torch.equal(found, getattr(whole.inputs, name)), name
    scales = [part.drop_path_scale for part in parts if part.drop_path_scale is not None]
    assert whole.drop_path_scale is not None
    assert torch.equal(of_samples(task, scales, 2), whole.drop_path_scale)
    if whole.targets is not None:
        assert torch.equal(torch.cat([part.targets for part in parts if part.targets is not None]), whole.targets)
    assert whole.inputs.causal_captions == (task == "caption")
    assert not whole.inputs.image_mask.any() and len(whole.inputs.text_ids) == 0


def test_masked_words_are_seven_tenths_of_a_caption_and_never_its_beginning() -> None:
    config = replace(config_of(Case("one step", "caption")), mask_ratio=0.7)
    batch, (step,) = global_batch(config, 3), made(config)
    assert step.words is not None and batch.text_ids is not None
    used = step.words.labels != IGNORE_INDEX
    assert tuple(used.sum(1).tolist()) == step.words.counts == num_masked(batch.text_lengths, 0.7)
    assert (step.words.positions[used] > 0).all()
    rows = torch.arange(NUM_SAMPLES)[:, None].expand_as(used)[used]
    assert torch.equal(batch.text_ids[rows, step.words.positions[used]], step.words.labels[used])
    changed = step.inputs.caption_ids != batch.text_ids
    assert 0.5 < (step.inputs.caption_ids == Words().mask_id).sum() / used.sum() < 0.95
    hidden = torch.zeros_like(changed)
    hidden[rows, step.words.positions[used]] = True
    assert not (changed & ~hidden).any()


def test_pixels_are_normalised_as_microsofts_code_does() -> None:
    white, black = (torch.full((1, 3, 32, 32), value, dtype=torch.uint8) for value in (255, 0))
    vqa, classify = config_of(Case("one step", "vqa")), config_of(Case("one step", "classify"))
    assert torch.equal(task_view(vqa, white), torch.ones(1, 3, 32, 32))
    assert torch.equal(task_view(vqa, black), -torch.ones(1, 3, 32, 32))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(task_view(classify, white)[0, :, 0, 0], (1 - mean) / std)
    torch.testing.assert_close(task_view(classify, black)[0, :, 0, 0], -mean / std)
    assert task_view(replace(vqa, precision="bfloat16"), white).dtype == torch.bfloat16


def test_both_pairs_of_a_statement_are_dropped_independently() -> None:
    config = config_of(Case("one step", "nlvr2"))
    ids = torch.arange(200)
    found = drop_path_scale(config, ids)
    assert found is not None
    first, second = found.chunk(2, dim=2)
    assert not torch.equal(first, second)
    alone = drop_path_scales(config.seed, 2 * ids[5:6] + 1, config.model.depth, DROP_PATH_RATE)
    assert torch.equal(second[:, :, 5:6], alone)
    still = replace(config, model=replace(config.model, drop_path_rate=0.0))
    assert drop_path_scale(still, ids) is None
