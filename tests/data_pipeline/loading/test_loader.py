"""Loader workers: how they die is reported, and they can run as long as a pretraining job."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data_pipeline.loading.batch import LoadedSample, StepBatch
from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.samples.sample import BadSample
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import MAX_OPEN_SHARDS
from data_pipeline.workers import under_way
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.shard_files import pair_dataset
from tests.support.tiny_run import TinyData


def test_a_dead_worker_is_reported_with_the_sample_it_was_reading(good_pairs: Path, tiny_data: TinyData) -> None:
    class DiesAtACaption(StepDataset):
        """Imitates a decoder that crashes."""

        def _encode(self, *arguments: object) -> list[int]:
            os.kill(os.getpid(), signal.SIGKILL)
            return []

    whole = pair_dataset(good_pairs, tiny_data)
    whole.__class__ = DiesAtACaption
    batches: Iterator[StepBatch] = step_batches(whole, 5, 100, num_workers=1)
    batch = next(batches)
    source, sample = whole.kinds["pair"].locate(5, 0)
    name = whole.name("pair", source, sample)
    assert batch.failure == f"loader worker 0 died (killed by SIGKILL); it had last begun to read {name} of step 5"
    assert next(batches, None) is None


def test_a_sample_that_takes_too_long_is_reported_and_batches_that_are_each_quick_are_not(
    good_pairs: Path, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowAtStep7(StepDataset):
        """Imitates a decoder that does not end."""

        def _read(self, step: int) -> Iterator[LoadedSample | BadSample]:
            end = time.process_time() + (60 if step == 7 else 0.1)
            yield from super()._read(step)
            while time.process_time() < end:
                pass

    monkeypatch.setattr(under_way, "SAMPLE_CPU_SECONDS", 0.5)
    whole = pair_dataset(good_pairs, tiny_data)
    whole.__class__ = SlowAtStep7
    *sound, batch = step_batches(whole, 0, 100, num_workers=1)
    assert len(sound) == 7 and not any(before.failure for before in sound)
    assert batch.failure.startswith("loader worker 0 took more than ")
    assert " s of CPU time for a sample; it had last begun to read " in batch.failure
    assert f"{good_pairs}/" in batch.failure and "of step 7; write the shards without it" in batch.failure


def test_an_unforeseen_error_fails_the_batch_and_not_one_rank_alone(good_pairs: Path, tiny_data: TinyData) -> None:
    class Faulty(StepDataset):
        def _encode(self, *arguments: object) -> list[int]:
            raise KeyError("a fault of ours")

    whole = pair_dataset(good_pairs, tiny_data)
    whole.__class__ = Faulty
    for num_workers in (0, 1):
        (batch, *_) = step_batches(whole, 0, 3, num_workers)
        assert "KeyError: 'a fault of ours'" in batch.failure and len(batch.images) == 0


NUM_STEPS = 100_000


SETTLED = 20_000
"""Steps after which caches have filled."""


ALLOWED_GROWTH_BYTES = 4 << 20


@pytest.mark.slow
def test_a_hundred_thousand_steps_take_no_more_memory_and_files_than_twenty_thousand(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    write_shards(ShardOptions("pair", "scenes:600", tmp_path / "pairs", samples_per_shard=2))
    assert len(read_index(tmp_path / "pairs").shards) > 2 * MAX_OPEN_SHARDS
    config = DataConfig(
        images=(),
        pairs=(f"{tmp_path / 'pairs'}=2", str(tiny_data.folder / "pairs")),
        texts=(str(tiny_data.folder / "texts"),),
        text_tokenizer=tiny_data.folder / "text_tokenizer.spm",
        caption_length=20,
        text_length=24,
        num_lanes=1,
        window_shards=8,
    )
    dataset = StepDataset(config, SamplesPerStep(0, 1, 1), image_size=16, seed=0)
    rank = psutil.Process()
    open_before = rank.num_fds()
    measured = []
    for batch in step_batches(dataset, 0, NUM_STEPS, num_workers=2):
        assert not batch.failure
        if (batch.step + 1) % SETTLED == 0:
            processes = [rank, *rank.children()]
            memory = [process.memory_info().rss for process in processes]
            files = [process.num_fds() for process in processes]
            print(f"step {batch.step + 1}: {[f'{m / 2**20:.1f} MiB' for m in memory]}, {files} files", flush=True)
            measured.append((memory, files))
    for memory, files in measured[1:]:
        for now, settled in zip(memory, measured[0][0], strict=True):
            assert now - settled < ALLOWED_GROWTH_BYTES
        for now, settled in zip(files, measured[0][1], strict=True):
            assert now <= settled + 20  # tensors in transit between processes are open files
            assert now < open_before + MAX_OPEN_SHARDS + 40
