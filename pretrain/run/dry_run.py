"""A dry run: everything that a start finds out, up to the engine, printed by one process that changes nothing.

It takes the steps of start.py with the same functions, as rank 0 of the ranks that it plans for, so that its refusals
are those of a real start. Only the cache of remote shards is filled.
"""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]

from data_pipeline.loading.kind_sources import sample_noun
from data_pipeline.loading.shard_dataset import ShardDataset
from pretrain.checkpoints.reader import Checkpoint, agreed_latest_checkpoint, complete_folders, describe_unverified
from pretrain.checkpoints.saver import check_there
from pretrain.config.dry_run import DryRunOptions
from pretrain.config.run_config import ConfigT, EncoderRunConfig, config_to_json
from pretrain.engine.engine import merged_deepspeed_config
from pretrain.engine.memory_config import read_memory_config
from pretrain.jobs.job import Batch, Job
from pretrain.planning.memory import planned_kernels
from pretrain.planning.network_tables import stage_table
from pretrain.planning.stages import GPUS_PER_NODE, is_for_cpu, plan_stage, plan_stages
from pretrain.run.start import EvaluationOf, open_inputs
from pretrain.run.unchanged import agreed_fingerprints, check_unchanged
from pretrain.survival.console import say, warn
from pretrain.survival.stop import end_as_mistake

NUM_KEYS = 5
"""Sample keys of the first batch that are printed per kind."""
MOST_VERIFIED = 4_000_000_000
"""Bytes of a checkpoint above which a dry run compares the sizes of its files alone, not their contents."""


def dry_run(kind: type[Job[ConfigT]], config: ConfigT, options: DryRunOptions, evaluation_of: EvaluationOf) -> NoReturn:
    """Print what a run would do, on the main rank, and end this process: with 0, or 2 and a sentence for a mistake."""
    if int(os.environ.get("RANK", "0")):
        sys.exit(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # of this process alone, so that the functions of start.py, which agree with other ranks, can be called
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        show(kind(config, device), planned_ranks(config, options), evaluation_of)
    except (ValueError, OSError) as error:
        end_as_mistake(str(error))
    finally:
        dist.destroy_process_group()
    sys.exit(0)


def planned_ranks(config: ConfigT, options: DryRunOptions) -> int:
    """Return the ranks of the option, of the launcher, or of a node as far as they divide the batch."""
    if options.dry_run_ranks is not None:
        return options.dry_run_ranks
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        return launched
    parts = [count // config.gradient_accumulation_steps for count in vars(config.samples_per_step).values()]
    return max(1, math.gcd(GPUS_PER_NODE, *parts))


def show(job: Job[ConfigT], num_ranks: int, evaluation_of: EvaluationOf) -> None:
    """Print one section after the other, the cheapest first. Raises ValueError or OSError for a mistake."""
    config = job.config
    say(f"dry run of {config.run_dir} on {num_ranks} ranks; nothing is trained or written")
    _section("config", config_to_json(config).rstrip())
    memory_config = read_memory_config(config.deepspeed_config)
    merged = merged_deepspeed_config(config, memory_config, num_ranks, job.bfloat16_weights)
    _section(f"DeepSpeed, from {config.deepspeed_config}", json.dumps(merged, indent=2))
    _section("plan", plan(config, memory_config, num_ranks))
    dataset, _ = open_inputs(job, 0, num_ranks)
    evaluation = evaluation_of(job, True)
    every = f"evaluation every {config.evaluation.every_steps} steps"
    evaluated = [] if evaluation is None else [f"{every}: {', '.join(evaluation.names)}"]
    _section("data", "\n".join([*job.describe(), *dataset.describe(), *evaluated]))
    more = [] if evaluation is None else evaluation.warnings(dataset)
    for warning in [*config.warnings(), *dataset.warnings(), *more]:
        warn(f"warning: {warning}")
    _section("first batch", first_batch(dataset, num_ranks))
    _section("start", beginning(job, dataset))
    say("\nno mistake was found; start the run with the same command without --dry-run")


def first_batch(dataset: ShardDataset[Any, Any], num_ranks: int) -> str:
    """Return the shapes and some keys of rank 0's part of step 0. Raises OSError if it cannot be read."""
    started = time.perf_counter()
    batch = dataset[0]
    seconds = time.perf_counter() - started
    if batch.failure:
        raise OSError(f"the data of step 0 cannot be read: {batch.failure}")
    speed = len(batch.keys) / max(seconds, 1e-9)
    lines = [f"{len(batch.keys)} samples of rank 0 of {num_ranks}, {speed:.0f} a second in one process"]
    lines += [f"{name:20}{tuple(tensor.shape)} {tensor.dtype}" for name, tensor in batch.tensors().items()]
    lines += [_lengths(name, lengths) for name, lengths in _texts(batch).items() if lengths]
    first = 0
    for kind, sources in dataset.kinds.items():
        count = sources.samples_per_step // num_ranks
        keys = batch.keys[first : first + count][:NUM_KEYS]
        first += count
        lines.append(f"{f'keys of {sample_noun(kind)}s':20}{', '.join(keys)}{', ...' if count > NUM_KEYS else ''}")
    lines += [f"bad sample: {bad}" for bad in batch.bad_samples[:NUM_KEYS]]
    return "\n".join(lines)


def _texts(batch: Batch) -> dict[str, tuple[int, ...]]:
    names = {"captions": "caption_lengths", "texts": "text_lengths"}  # a batch of a task has only the latter
    return {name: getattr(batch, field, ()) for name, field in names.items()}


def _lengths(name: str, lengths: tuple[int, ...]) -> str:
    mean = sum(lengths) / len(lengths)
    return f"{f'tokens of {name}':20}{min(lengths)} to {max(lengths)}, {mean:.1f} on average"


def plan(config: ConfigT, memory_config: dict[str, Any], num_ranks: int) -> str:
    """Return the memory of a rank under each ZeRO stage; pretrain.plan has the rest, which takes longer."""
    if not isinstance(config, EncoderRunConfig):
        return "predicted for runs that train an encoder, not for visual tokenizers"
    if is_for_cpu(config):
        stage = plan_stage(config, memory_config, num_ranks, on_cpu=True)
        return stage_table(config, [stage], num_ranks, "reference")
    table = stage_table(config, plan_stages(config, memory_config, num_ranks), num_ranks, planned_kernels(config))
    return f"{table}\npython -m pretrain.plan also predicts the time of a step and of the whole run"


def beginning(job: Job[ConfigT], dataset: ShardDataset[Any, Any]) -> str:
    """Return the checkpoint that the run would resume. Raises ValueError if a start would refuse it."""
    config = job.config
    newest = complete_folders(config.run_dir / "checkpoints")[-1:]
    if not newest:
        made = "" if config.run_dir.exists() else "; the folder would be made"
        return f"at step 0: {config.run_dir} has no checkpoint{made}"
    checkpoint, verified = sound_checkpoint(config, newest[0])
    files = job.files(config)
    fingerprints = agreed_fingerprints(dataset, config, files)
    check_unchanged(checkpoint, config, fingerprints, job.files(checkpoint.config), files)
    if checkpoint.step == config.num_steps:
        return f"none: {config.run_dir} is complete, {checkpoint.folder} has all {config.num_steps} steps"
    return (
        f"from {checkpoint.folder}: {checkpoint.step} of {config.num_steps} steps are done, saved by "
        f"{checkpoint.world_size} ranks; {verified}"
    )


def sound_checkpoint(config: ConfigT, newest: Path) -> tuple[Checkpoint[ConfigT], str]:
    """Return the checkpoint that a start would take, and how far it was verified. Raises ValueError or OSError.

    newest: the newest complete one. If it is large, only the sizes of its files are compared.
    """
    size = sum(path.stat().st_size for path in newest.iterdir() if path.is_file())
    if size > MOST_VERIFIED:
        check_there(newest)
        kept_short = f"of its {size / 1e9:.0f} GB only the sizes of files were compared; the start compares contents"
        return describe_unverified(newest, type(config)), kept_short
    checkpoint = agreed_latest_checkpoint(config)
    assert checkpoint is not None
    return checkpoint, "all its files are sound"


def _section(title: str, text: str) -> None:
    say(f"\n== {title} ==\n{text}")
