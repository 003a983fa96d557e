"""Batches: shapes, types, and their micro-batches."""

from dataclasses import replace

import torch

from data_pipeline.loading.config import SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID
from tests.support.data_configs import IMAGE_SIZE, PER_STEP, local_config
from tests.support.tiny_run import TEXT_LENGTH, TinyData


def test_micro_batches_hold_each_sample_once(tiny_data: TinyData) -> None:
    batch = StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)[0]
    micro_batches = batch.micro_batches(2)
    assert [len(micro.caption_ids) for micro in micro_batches] == [4, 4]
    for field in ("image_sample_ids", "text_sample_ids"):
        joined = torch.cat([getattr(micro, field) for micro in micro_batches])
        assert sorted(joined.tolist()) == sorted(getattr(batch, field).tolist())
    assert torch.equal(torch.cat([micro.caption_ids for micro in micro_batches]), batch.caption_ids)
    assert torch.equal(torch.cat([micro.images[2:] for micro in micro_batches]), batch.images[4:])
    for micro in (batch, *micro_batches):
        assert list(micro.caption_lengths) == (~micro.caption_padding).sum(1).tolist()
        assert list(micro.text_lengths) == (~micro.text_padding).sum(1).tolist()
    assert len(set(batch.caption_lengths)) > 1


def test_shapes_types_and_specials(tiny_data: TinyData) -> None:
    batch = StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)[0]
    assert batch.images.shape == (12, 3, IMAGE_SIZE, IMAGE_SIZE) and batch.images.dtype == torch.uint8
    assert batch.caption_ids.shape == (8, 20) and batch.text_ids.shape == (4, TEXT_LENGTH)
    for ids, padding in ((batch.caption_ids, batch.caption_padding), (batch.text_ids, batch.text_padding)):
        lengths = (~padding).sum(1)
        assert (ids[:, 0] == BOS_ID).all()
        assert (ids.gather(1, lengths[:, None] - 1) == EOS_ID).all()
        assert ((ids == EOS_ID).sum(1) == 1).all()
    ids = torch.cat([batch.image_sample_ids, batch.text_sample_ids])
    assert sorted(ids.tolist()) == list(range(PER_STEP.total))


def test_a_kind_may_be_absent(tiny_data: TinyData) -> None:
    absent = replace(local_config(tiny_data), pairs=("nowhere",), texts=("nowhere",))
    batch = StepDataset(absent, SamplesPerStep(4, 0, 0), IMAGE_SIZE, seed=3)[2]
    assert len(batch.images) == 4 and batch.caption_ids.shape == (0, 20) and batch.text_ids.shape == (0, TEXT_LENGTH)
