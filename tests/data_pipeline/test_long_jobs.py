"""A loader that runs for as long as a pretraining job. A few minutes."""

from pathlib import Path

import psutil
import pytest

from data_pipeline.loading.config import DataConfig, SamplesPerStep
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from data_pipeline.shards.index import read_index
from data_pipeline.shards.reader import MAX_OPEN_SHARDS
from data_pipeline.write_shards import ShardOptions, write_shards
from tests.support.tiny_run import TinyData

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
            assert now <= settled + 20  # tensors on their way between processes are open files
            assert now < open_before + MAX_OPEN_SHARDS + 40
