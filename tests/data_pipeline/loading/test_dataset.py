"""The loader: the same global batch on any number of ranks and workers."""

import io
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.shards.index_writer import merge_scans
from data_pipeline.shards.scan import save_scan, scan_path, scan_shard
from tests.support.data_configs import IMAGE_SIZE, PER_STEP, local_config
from tests.support.tiny_run import TinyData


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
    whole = StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)
    ranks = [
        StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, 3, rank, world_size) for rank in range(world_size)
    ]
    for step in (0, 1, 57):
        batches = [dataset[step] for dataset in ranks]
        for kind in ("image", "pair", "text"):
            assert [sample for batch in batches for sample in part(batch, kind)] == part(whole[step], kind)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_four_ranks_with_three_workers_and_one_rank_with_none_read_the_same_bytes(tiny_data: TinyData) -> None:
    """Including augmentation; one starts in the middle of the run, the other at its beginning."""
    whole = StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, seed=3)
    expected = list(step_batches(whole, 0, 9, num_workers=0))
    loaders = [
        step_batches(StepDataset(local_config(tiny_data), PER_STEP, IMAGE_SIZE, 3, rank, 4), 5, 9, num_workers=3)
        for rank in range(4)
    ]
    for step in range(5, 9):
        batches = [next(loader) for loader in loaders]
        assert {batch.step for batch in batches} == {step}
        for kind in ("image", "pair", "text"):
            assert [sample for batch in batches for sample in part(batch, kind)] == part(expected[step], kind)
    assert len({content for batch in expected for _, _, content in part(batch, "pair")}) == 9 * PER_STEP.pairs


Sample = tuple[str, int, tuple[int, ...]]
"""Key, sample id, token ids."""


@contextmanager
def text_sources(sources: list[list[int]]) -> Iterator[list[str]]:
    """Write folders of text shards directly. sources: shard sizes per folder. Keys are unique over all folders."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, sizes in enumerate(sources):
            source = Path(folder) / str(number)
            source.mkdir()
            names = [f"{shard:06d}.tar" for shard in range(len(sizes))]
            for name, size in zip(names, sizes, strict=True):
                with tarfile.open(source / name, "w") as tar:
                    for sample in range(size):
                        member = tarfile.TarInfo(f"{number}-{name[:6]}-{sample}.txt")
                        text = f"a red circle {number} {name} {sample}".encode()
                        member.size = len(text)
                        tar.addfile(member, io.BytesIO(text))
                save_scan(scan_shard(source / name, "text", origin=""), scan_path(source, name))
            merge_scans(source, "text", names, [scan_path(source, name) for name in names])
            paths.append(str(source))
        yield paths


@st.composite
def topologies(draw: st.DrawFn) -> dict[str, int]:
    """Lanes, and batches that the ranks and micro-steps divide."""
    num_lanes, world_size, micro_steps = (draw(st.integers(1, 3)) for _ in range(3))
    return {
        "num_lanes": num_lanes,
        "world_size": world_size,
        "micro_steps": micro_steps,
        "texts_per_step": num_lanes * world_size * micro_steps * draw(st.integers(1, 3)),
        "num_workers": draw(st.sampled_from([0, 0, 0, 1, 3])),
        "window_shards": draw(st.integers(1, 3)),
        "first_step": draw(st.sampled_from([0, 1, 7, 900_000])),
        "seed": draw(st.integers(0, 100)),
    }


def samples_of(batch: StepBatch) -> list[Sample]:
    ids = [tuple(row) for row in batch.text_ids.tolist()]
    return list(zip(batch.keys, batch.text_sample_ids.tolist(), ids, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@settings(max_examples=15)
@given(
    st.lists(
        st.lists(st.integers(1, 12), min_size=1, max_size=5).filter(lambda s: sum(s) >= 3), min_size=1, max_size=3
    ),
    topologies(),
)
def test_a_step_is_the_same_on_any_ranks_workers_and_micro_steps_and_after_a_restart(
    tiny_data: TinyData, sources: list[list[int]], topology: dict[str, int]
) -> None:
    first, per_step = topology["first_step"], topology["texts_per_step"]
    with text_sources(sources) as folders:
        config = DataConfig(
            images=(),
            pairs=(),
            texts=tuple(f"{folder}={number + 1}" for number, folder in enumerate(folders)),
            text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
            text_length=20,
            num_lanes=topology["num_lanes"],
            window_shards=topology["window_shards"],
        )

        def dataset(rank: int, world_size: int) -> StepDataset:
            return StepDataset(config, SamplesPerStep(0, 0, per_step), 8, topology["seed"], rank, world_size)

        whole = dataset(0, 1)
        expected = [samples_of(whole[step]) for step in range(first, first + 4)]
        world_size = topology["world_size"]
        parts: list[list[Sample]] = [[] for _ in range(4)]
        for rank in range(world_size):
            batches = step_batches(dataset(rank, world_size), first + 1, first + 4, topology["num_workers"])
            for number, batch in enumerate(batches, start=1):  # a restart one step later
                assert batch.step == first + number and not batch.failure
                parts[number] += samples_of(batch)
                micro = batch.micro_batches(topology["micro_steps"])
                assert torch.equal(torch.cat([part.text_ids for part in micro]), batch.text_ids)
        assert parts[1:] == expected[1:]
        assert [id for samples in expected for _, id, _ in samples] == list(
            range(first * per_step, (first + 4) * per_step)
        )


@settings(max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5).filter(lambda s: sum(s) >= 3), topologies())
def test_a_pass_visits_each_sample_once(tiny_data: TinyData, sizes: list[int], topology: dict[str, int]) -> None:
    num_samples, num_lanes = sum(sizes), topology["num_lanes"]
    with text_sources([sizes]) as folders:
        config = DataConfig(
            images=(),
            pairs=(),
            texts=tuple(folders),
            text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
            num_lanes=num_lanes,
            window_shards=topology["window_shards"],
        )
        dataset = StepDataset(config, SamplesPerStep(0, 0, num_lanes), 8, topology["seed"])
        shortest, longest = num_samples // num_lanes, -(-num_samples // num_lanes)
        counts = Counter[str]()
        for step in range(longest):
            if step == shortest:
                assert set(counts.values()) == {1} and len(counts) == shortest * num_lanes
            counts.update(dataset[step].keys)
        # if the lanes do not divide the samples, some have one more, which comes last
        assert len(counts) == num_samples and sum(counts.values()) == longest * num_lanes
        assert dataset.seen(longest)["text"][folders[0]] >= 1
