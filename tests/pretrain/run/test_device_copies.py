"""Copies between host and device, and steps that wait for none of them. CPU, seconds."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from model import visual_tokenizer
from model.kernels.block_masks import ImageMasks, block_image_masks
from model.masked_data_model import MaskedDataModel
from pretrain.checkpoints.weights import find_checkpoint
from pretrain.config.pretraining import PretrainConfig
from pretrain.jobs import micro_step
from pretrain.jobs.micro_step import make_micro_step
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.run.device_copies import DeferredMetrics, batches_ahead

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda")


def read_batches(config: PretrainConfig, count: int, read: list[int]) -> Iterator[StepBatch]:
    """Yield the first batches of a run; read: list to which the step of each is added when it is read."""
    samples = SamplesPerStep(config.images_per_step, config.pairs_per_step, config.texts_per_step)
    dataset = StepDataset(config.data, samples, config.model.image_size, config.seed, 0, 1)
    for step in range(count):
        read.append(step)
        yield dataset[step]


def test_each_batch_is_read_before_the_preceding_step(two_ranks: Path) -> None:
    read: list[int] = []
    seen = []
    for batch in batches_ahead(read_batches(find_checkpoint(two_ranks, PretrainConfig).config, 3, read), CPU):
        seen.append((batch.step, list(read)))
    assert seen == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]


def test_no_batch_is_requested_after_one_that_failed(two_ranks: Path) -> None:
    def batches() -> Iterator[StepBatch]:
        for batch in read_batches(find_checkpoint(two_ranks, PretrainConfig).config, 2, []):
            yield replace(batch, failure="a worker died" if batch.step else "")
        raise AssertionError("requested another batch")

    assert [batch.failure for batch in batches_ahead(batches(), CPU)] == ["", "a worker died"]


def test_an_empty_iterator_gives_no_batches() -> None:
    assert list(batches_ahead([], CPU)) == []


def test_a_record_keeps_the_bits_that_it_had() -> None:
    value = torch.tensor(0.1)
    late = DeferredMetrics(
        {"step": 3, "loss": value, "losses": {"mim": value * math.inf, "mlm": 2.5}, "skipped": False}
    )
    value += 1  # later operations on the device change nothing
    assert late.read() == {
        "step": 3,
        "loss": float(torch.tensor(0.1)),
        "losses": {"mim": math.inf, "mlm": 2.5},
        "skipped": False,
    }
    assert DeferredMetrics({"step": 1}).read() == {"step": 1}
    assert DeferredMetrics({"grad_norm": torch.tensor([2.0])}).read() == {"grad_norm": 2.0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_record_may_come_from_both_device_and_host() -> None:
    figures = {"loss": torch.tensor(1.5, device=CUDA), "grad_norm": torch.tensor(0.5)}
    assert DeferredMetrics(figures).read() == {"loss": 1.5, "grad_norm": 0.5}


def one_micro_step(config: PretrainConfig, batch: StepBatch, device: torch.device) -> Tensor:
    """Return losses and gradients of a step for a batch, computed on the device only."""
    tokenizer = load_visual_tokenizer(config.visual_tokenizer).to(device)
    text_tokenizer = StepDataset(config.data, config.samples_per_step, 48, 0, 0, 1).tokenizer
    assert text_tokenizer is not None
    with device:
        model = MaskedDataModel(config.model, config.kernels, config.activation_checkpointing).to(config.dtype)
    batch = batch.to(device)

    def compute() -> Tensor:
        micro = make_micro_step(config, batch, tokenizer, text_tokenizer)
        sums: Tensor = model(micro.inputs, micro.targets, micro.drop_path_scale) / micro.targets.counts().clamp(min=1)
        sums.sum().backward()
        return sums.detach()

    if device.type != "cuda":
        return compute()
    compute()  # fills caches, for which one copy is permitted
    torch.cuda.set_sync_debug_mode("error")
    try:
        return compute()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nothing_of_a_micro_step_is_read_back(two_ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on the meta device, where every read of a value fails."""
    config = find_checkpoint(two_ranks, PretrainConfig).config
    (batch,) = read_batches(config, 1, [])

    def drawn_elsewhere(seed: int, sample_ids: Tensor, *sizes: int | str) -> ImageMasks:
        """Draw masks on the CPU: a kernel draws them on a GPU, but the definition in plain torch reads values."""
        masks = block_image_masks(seed, torch.zeros(sample_ids.shape, dtype=torch.int64), *sizes)  # type: ignore[arg-type]
        return ImageMasks(masks.mask.to(META), masks.positions.to(META))

    monkeypatch.setattr(micro_step, "block_image_masks", drawn_elsewhere)
    monkeypatch.setattr(visual_tokenizer, "_autocast", lambda *_: nullcontext())  # the meta device has none
    assert one_micro_step(config, batch, META).device == META


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_waits_for_nothing_in_a_micro_step_on_a_gpu(two_ranks: Path) -> None:
    (batch,) = batches_ahead(
        (b.pin_memory() for b in read_batches(find_checkpoint(two_ranks, PretrainConfig).config, 1, [])), CUDA
    )
    assert one_micro_step(find_checkpoint(two_ranks, PretrainConfig).config, batch, CUDA).isfinite().all()
