"""Shards of every task on drawn scenes, and data configs of small runs on them."""

from pathlib import Path

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.write_shards import ShardOptions, write_shards

TEXT_LENGTH = 16


def write_scenes(folder: Path, task: Task, count: int = 24, samples_per_shard: int = 6) -> Path:
    """Write drawn samples of a task into a new folder; return it."""
    kind = TASK_KINDS[task]
    write_shards(ShardOptions(kind, f"scenes:{count}", folder, samples_per_shard, num_workers=1))
    return folder


def task_config(folder: Path, tokenizer: Path | None, **changes: object) -> TaskDataConfig:
    return TaskDataConfig(
        shards=(str(folder),),
        text_tokenizer=tokenizer,
        text_length=TEXT_LENGTH,
        num_lanes=2,
        num_workers=0,
        **changes,  # type: ignore[arg-type]
    )
