"""The loader: the same global batch on any number of ranks and workers."""

from dataclasses import replace

import pytest
import torch

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.texts.tokenizer import BOS_ID, EOS_ID
from tests.support.tiny_run import TEXT_LENGTH, TinyData

PER_STEP = SamplesPerStep(images=4, pairs=8, texts=4)
IMAGE_SIZE = 32


def config(data: TinyData) -> DataConfig:
    return DataConfig(
        images=(str(data.folder / "images"),),
        pairs=(str(data.folder / "pairs"),),
        texts=(str(data.folder / "texts"),),
        text_tokenizer=data.folder / "text_tokenizer.spm",
        caption_length=20,
        text_length=TEXT_LENGTH,
        num_lanes=4,
    )


def part(batch: StepBatch, kind: str) -> list[tuple[str, list[int], bytes]]:
    """Each sample of a kind: key, id and content."""
    num_pairs, num_texts = len(batch.caption_ids), len(batch.text_ids)
    num_images = len(batch.images) - num_pairs
    contents = [
        *(image.numpy().tobytes() for image in batch.images[:num_images]),
        *(
            i.numpy().tobytes() + t.numpy().tobytes()
            for i, t in zip(batch.images[num_images:], batch.caption_ids, strict=True)
        ),
        *(text.numpy().tobytes() for text in batch.text_ids),
    ]
    ids = [[int(i)] for i in (*batch.image_sample_ids, *batch.text_sample_ids)]
    samples = list(zip(batch.keys, ids, contents, strict=True))
    bounds = {"image": (0, num_images), "pair": (num_images, num_images + num_pairs), "text": (-num_texts, None)}
    return samples[slice(*bounds[kind])]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_ranks_parts_make_up_the_global_batch_to_the_byte(world_size: int, tiny_data: TinyData) -> None:
    whole = StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)
    ranks = [StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, 3, rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 57):
        batches = [dataset[step] for dataset in ranks]
        for kind in ("image", "pair", "text"):
            assert [sample for batch in batches for sample in part(batch, kind)] == part(whole[step], kind)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_four_ranks_with_three_workers_and_one_rank_with_none_read_the_same_bytes(tiny_data: TinyData) -> None:
    """Augmentation included; begun in the middle of the run, where the other begins at its start."""
    whole = StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)
    expected = list(step_batches(whole, 0, 12, num_workers=0))
    loaders = [
        step_batches(StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, 3, rank, 4), 5, 12, num_workers=3)
        for rank in range(4)
    ]
    for step in range(5, 12):
        batches = [next(loader) for loader in loaders]
        assert {batch.step for batch in batches} == {step}
        for kind in ("image", "pair", "text"):
            assert [sample for batch in batches for sample in part(batch, kind)] == part(expected[step], kind)
    assert len({content for batch in expected for _, _, content in part(batch, "pair")}) == 12 * PER_STEP.pairs


def test_sources_are_mixed_by_weight_and_what_was_seen_of_each_is_told(tiny_data: TinyData) -> None:
    folder = str(tiny_data.folder / "pairs")
    mixed = replace(config(tiny_data), pairs=(f"{folder}=3", f"{folder}/."))  # forty samples each
    dataset = StepDataset(mixed, PER_STEP, IMAGE_SIZE, seed=3)
    drawn = [dataset.kinds["pair"].sample(step, place)[0] for step in range(20) for place in range(8)]
    assert drawn.count(0) == 120 and drawn.count(1) == 40
    assert dataset.describe()[1] == f"pair: {folder} 40 samples 75%, {folder}/. 40 samples 25%"
    assert dataset.seen(20)["pair"] == {folder: 3.0, f"{folder}/.": 1.0}
    other = StepDataset(replace(mixed, pairs=(folder, f"{folder}/.")), PER_STEP, IMAGE_SIZE, seed=3)
    assert dataset.fingerprints["pair"] != other.fingerprints["pair"]


def test_micro_batches_hold_each_sample_once(tiny_data: TinyData) -> None:
    batch = StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)[0]
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
    batch = StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)[0]
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
    absent = replace(config(tiny_data), pairs=("nowhere",), texts=("nowhere",))
    batch = StepDataset(absent, SamplesPerStep(4, 0, 0), IMAGE_SIZE, seed=3)[2]
    assert len(batch.images) == 4 and batch.caption_ids.shape == (0, 20) and batch.text_ids.shape == (0, TEXT_LENGTH)


def test_passages_that_a_run_would_cut_are_refused(tiny_data: TinyData) -> None:
    with pytest.raises(
        ValueError, match=rf"passages of up to {TEXT_LENGTH} ids, of which data.text_length 16 would cut"
    ):
        StepDataset(replace(config(tiny_data), text_length=16), PER_STEP, IMAGE_SIZE, seed=3)


def test_folders_of_the_wrong_kind_and_odd_world_sizes_are_refused(tiny_data: TinyData) -> None:
    swapped = replace(config(tiny_data), images=(str(tiny_data.folder / "texts"),))
    with pytest.raises(ValueError, match="holds shards of kind 'text', not 'image'"):
        StepDataset(swapped, PER_STEP, IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match="4 images per step must be a multiple of the 3 ranks"):
        StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, 3, 0, 3)


def test_lanes_that_a_kind_cannot_fill_are_told_with_the_kind(tiny_data: TinyData) -> None:
    many = replace(config(tiny_data), num_lanes=3)
    with pytest.raises(ValueError, match=r"^4 images per step must be a multiple of data.num_lanes 3; change one$"):
        StepDataset(many, PER_STEP, IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match=r"images holds \d+ images, fewer than data.num_lanes 80; lower it, or"):
        StepDataset(replace(many, num_lanes=80), SamplesPerStep(80, 0, 0), IMAGE_SIZE, seed=3)
    with pytest.raises(ValueError, match=r"^4 texts per step need a source; set data.texts$"):
        StepDataset(replace(config(tiny_data), texts=()), PER_STEP, IMAGE_SIZE, seed=3)


def test_a_batch_that_repeats_samples_is_told(tiny_data: TinyData) -> None:
    assert StepDataset(config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3).warnings() == []
    (warning,) = StepDataset(config(tiny_data), SamplesPerStep(4, 48, 4), IMAGE_SIZE, seed=3).warnings()
    expected = f"a step takes 48 pairs of {tiny_data.folder / 'pairs'}, which holds "
    assert warning.startswith(expected) and "a batch repeats samples; lower pairs_per_step, or add pairs" in warning


def test_a_step_is_told_in_words() -> None:
    assert str(SamplesPerStep(16, 4, 8)) == "16 images, 4 pairs and 8 texts"
    assert str(SamplesPerStep(0, 4, 8)) == "4 pairs and 8 texts" and str(SamplesPerStep(0, 0, 8)) == "8 texts"
