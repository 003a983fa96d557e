"""Bytes of a run's data and checkpoints on disk.

A checkpoint holds, over all ranks, the optimizer's state (float32 weights and moments) and, in stages 1 and 2, the
weights in the precision of the run once; stage 3 saves no weights besides the float32 ones (DeepSpeed 0.19.8). The text
tokenizer, names, shapes and checksums come on top.
"""

import math
from collections.abc import Iterator
from typing import Any

from data_pipeline.files.remote_files import is_remote, public_url
from data_pipeline.loading.config import parse_source
from data_pipeline.loading.kind_sources import sample_noun
from data_pipeline.shards.index import read_index
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.memory import count_pieces, planned_kernels, rank_memory
from pretrain.planning.sections import fact


def data_lines(config: EncoderRunConfig) -> Iterator[str]:
    """Yield a line per source of the recipe, with the bytes of its shards if they are there, and one for all."""
    total, num_counted = 0, 0
    sources = [(f"{sample_noun(kind)}s", entry) for kind, entries, _ in config.kinds for entry in entries]
    for noun, entry in sources:
        source, _ = parse_source(entry)
        name = f"{noun}: {public_url(source)}"
        if is_remote(source):
            limit = config.data.cache_bytes
            yield fact(name, "at a URL", f"not counted; a node caches up to {size_in_words(limit)} of its shards")
            continue
        try:
            index = read_index(source, check_shards=False)
        except (ValueError, OSError) as error:
            yield fact(name, "unknown", f"not counted: {str(error).partition(';')[0]}")
            continue
        num_bytes = sum(shard.num_bytes for shard in index.shards) + index.records.nbytes
        total, num_counted = total + num_bytes, num_counted + 1
        shards = f"{len(index.shards):,} shard{'s' * (len(index.shards) > 1)}"
        yield fact(name, size_in_words(num_bytes), f"counted: {index.num_samples:,} samples in {shards}")
    if num_counted > 1:
        yield fact("data", size_in_words(total), f"counted: {num_counted} of {len(sources)} sources")


def checkpoint_lines(config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int) -> Iterator[str]:
    """Yield lines on the bytes of a checkpoint, and of all that exist at once."""
    num_bytes = checkpoint_bytes(config, memory_config, num_ranks)
    newest, older = kept_checkpoints(config)
    kept = [f"the {newest:,} newest"] if newest else []
    kept += [f"{older:,} of every {config.keep_every_steps:,} steps"] if older else []
    kept += [f"the best by {config.evaluation.best}"] if config.evaluation.best else []
    most = newest + older + bool(config.evaluation.best) + 1
    yield fact("a checkpoint", size_in_words(num_bytes), "counted: optimizer state and weights")
    yield fact("checkpoints at once", f"{most:,}", f"counted: {', '.join([*kept, 'the one under way'])}")
    yield fact("all checkpoints", size_in_words(most * num_bytes), "counted")


def checkpoint_bytes(config: EncoderRunConfig, memory_config: dict[str, Any], num_ranks: int) -> int:
    """Return the bytes of a checkpoint, over the files of all ranks."""
    zero = memory_config["zero_optimization"]
    on_ranks = {name: value for name, value in zero.items() if not name.startswith("offload_")}
    # offloaded state is saved all the same, so it is counted as if it were on the GPU
    memory = rank_memory(config, {"zero_optimization": on_ranks}, num_ranks, planned_kernels(config))
    weights = 0 if zero["stage"] == 3 else config.dtype.itemsize * count_pieces(config, 0).total
    return num_ranks * memory.optimizer + weights


def kept_checkpoints(config: EncoderRunConfig) -> tuple[int, int]:
    """Return the complete checkpoints that exist while the last one is written: the newest, and older ones that
    keep_every_steps keeps. No earlier moment has more."""
    num_before = -(-config.num_steps // config.save_every_steps) - 1
    newest = min(config.keep_checkpoints, num_before)
    last_older = (num_before - newest) * config.save_every_steps
    every = math.lcm(config.keep_every_steps, config.save_every_steps)
    return newest, last_older // every if every else 0


def size_in_words(num_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it, in powers of 1000."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
    name, size = next(((name, size) for name, size in units if num_bytes >= size), ("kB", 1e3))
    return f"{num_bytes / size:,.1f} {name}"
