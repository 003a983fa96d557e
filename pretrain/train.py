"""Pretrain a BEiT-3: deepspeed --module pretrain.train RECIPE [overrides]

Ends with 0 when the run is complete, 75 when it was stopped by SIGTERM, SIGUSR1 or Ctrl-C and saved (start the same
command again to continue), 2 for a mistake in the command or the data. Where IMGLISH_STOPPED_FILE names a file, as
under Slurm, a stop is told by making it instead, and the code is 0.
"""

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.command_line import EXIT_USER_ERROR
from data_pipeline.step_dataset import StepBatch, StepDataset
from data_pipeline.step_loader import step_batches
from data_pipeline.text_tokenizer import TextTokenizer
from model.masked_data_model import OBJECTIVES
from model.pretrained import WEIGHTS_NAME, read_config
from model.visual_tokenizer import VisualTokenizer
from pretrain.bad_samples import BadSampleBudget
from pretrain.checkpoint import TEXT_TOKENIZER_NAME, agreed_latest_checkpoint, load_checkpoint, save_checkpoint
from pretrain.command_line import parse_recipe
from pretrain.config import PretrainConfig, changed_fields, config_to_json
from pretrain.engine import (
    build_engine,
    build_model,
    init_distributed,
    learning_rate,
    merged_deepspeed_config,
    read_memory_config,
)
from pretrain.micro_step import make_micro_step
from pretrain.recipes import RECIPES
from pretrain.run_log import RunLog
from pretrain.stop import EXIT_STOPPED, STOP_SIGNALS, StopRequest, end_process
from pretrain.visual_tokens import load_visual_tokenizer


def main() -> None:
    config = parse_recipe(RECIPES, "pretrain.train")
    device = init_distributed()
    try:
        exit_code = run(config, device)
    except (ValueError, OSError) as error:
        if dist.get_rank() == 0 or isinstance(error, OSError):  # a ValueError is raised by all ranks alike
            print(f"error: {error}", file=sys.stderr, flush=True)
        exit_code = EXIT_USER_ERROR
    end_process(exit_code)


def run(config: PretrainConfig, device: torch.device) -> int:
    """Train, and agree on how the process ends. Returns the exit code."""
    finished = train(config, device)
    stopped_file = os.environ.get("IMGLISH_STOPPED_FILE")
    if stopped_file and not finished and dist.get_rank() == 0:
        Path(stopped_file).touch()
    dist.barrier()  # no rank's exit code reaches the launcher before every rank has saved
    return 0 if finished or stopped_file else EXIT_STOPPED


T = TypeVar("T")


def on_every_rank(action: Callable[[], T]) -> T:
    """Do what can fail on any rank: if it does on one, ValueError with its sentence on all."""
    result, message = None, ""
    try:
        result = action()
    except (ValueError, OSError) as error:
        message = str(error)
    except Exception:  # a fault of ours on one rank must not leave the others waiting
        message = traceback.format_exc()
    messages = [""] * dist.get_world_size()
    dist.all_gather_object(messages, message)
    if any(messages):
        raise ValueError(next(message for message in messages if message))
    return cast(T, result)


def train(config: PretrainConfig, device: torch.device) -> bool:
    """Run or continue a run. True when all steps are done, False when it was asked to stop.

    Raises ValueError or OSError, on every rank, for a mistake in the config, the data or the run folder.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    stop = StopRequest()
    visual_tokenizer, dataset, deepspeed_config = on_every_rank(lambda: prepare(config, rank, world_size))
    visual_tokenizer.to(device)
    fingerprints = {
        **dataset.fingerprints,
        "visual tokenizer": file_fingerprint(config.visual_tokenizer),
        "text tokenizer": file_fingerprint(config.data.text_tokenizer),
    }
    if config.initial_weights is not None:
        fingerprints["initial weights"] = on_every_rank(lambda: initial_weights_fingerprint(config))
    first_step, checkpoint = 0, agreed_latest_checkpoint(config.run_dir)
    if checkpoint is not None:
        differences = changed_fields(checkpoint.config, config)
        differences += [
            f"{kind}: {checkpoint.data_fingerprints.get(kind)} -> {fingerprint}"
            for kind, fingerprint in fingerprints.items()
            if checkpoint.data_fingerprints.get(kind) != fingerprint
        ]
        if differences:
            raise ValueError(f"{config.run_dir} was begun otherwise ({'; '.join(differences)}); give a new run_dir")

    initial_weights = config.initial_weights if checkpoint is None else None
    model = on_every_rank(lambda: build_model(config, initial_weights))
    engine = build_engine(model, config, deepspeed_config)
    if checkpoint is not None:
        load_checkpoint(engine, checkpoint)
        first_step = checkpoint.step
    log = None
    if rank == 0:
        (config.run_dir / "config.json").write_text(config_to_json(config))
        log = RunLog(config.run_dir, first_step, config.num_steps)
        beginning = f"continues at step {first_step}" if first_step else "starts"
        print(f"{config.run_dir} {beginning}: {world_size} ranks on {device.type}, {config.precision}", flush=True)
        print("\n".join(dataset.describe()), flush=True)

    num_consecutive_skips = 0
    bad_samples = BadSampleBudget(config.run_dir, config.data.max_bad_samples)
    on_every_rank(lambda: bad_samples.read(first_step))
    on_every_rank(lambda: bad_samples.write() if rank == 0 else None)
    workers = config.data.num_workers
    for batch in step_batches(dataset, first_step, config.num_steps, workers, leave_signals_to_the_rank):
        record = train_step(config, engine, batch.to(device), visual_tokenizer, dataset.tokenizer, stop, bad_samples)
        done = batch.step + 1
        save = record["stop"] or done == config.num_steps or done % config.save_every_steps == 0
        num_consecutive_skips = num_consecutive_skips + 1 if record["skipped"] else 0
        if log is not None:
            log.write({**record, "passes": dataset.seen(done)} if save else record)
        if num_consecutive_skips >= config.max_consecutive_skips:
            raise ValueError(f"{num_consecutive_skips} steps in a row had no finite gradient; lower the learning rate")
        if save:
            save_checkpoint(engine, config, done, fingerprints)
        if record["stop"] and done < config.num_steps:
            if rank == 0:
                print(f"stopped on request after step {done}, saved; the same command continues", flush=True)
            return False
    return True


def train_step(
    config: PretrainConfig,
    engine: deepspeed.DeepSpeedEngine,
    batch: StepBatch,
    visual_tokenizer: VisualTokenizer,
    text_tokenizer: TextTokenizer,
    stop: StopRequest,
    bad_samples: BadSampleBudget,
) -> dict[str, Any]:
    """One optimizer step on this rank's part of a global batch. Returns the same log record on every rank."""
    start = time.perf_counter()
    micro_batches = batch.micro_batches(config.gradient_accumulation_steps)
    micro_steps = [make_micro_step(config, part, visual_tokenizer, text_tokenizer) for part in micro_batches]

    # losses are means over the masked tokens of the global batch, so its counts are agreed on first
    counts = torch.stack([micro.targets.counts() for micro in micro_steps]).sum(0)
    flags = torch.tensor([stop.is_set, len(batch.bad_samples), bool(batch.failure)], device=counts.device)
    agreed = summed_over_ranks(torch.cat([counts, flags]))
    global_counts, (num_stops, num_bad_samples, num_failures) = agreed[:4], agreed[4:].tolist()
    if num_bad_samples:
        bad_samples.add(batch.step, batch.bad_samples)
    if num_failures:
        raise ValueError(f"the data of step {batch.step} cannot be read: {first_failure(batch)}")

    scale = torch.tensor(config.objective.weights, device=counts.device) / global_counts.clamp(min=1)
    lr = learning_rate(config.optimizer, batch.step, config.num_steps)
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    # DeepSpeed divides by ranks and micro-steps; the counts above have done so already
    undo_averaging = dist.get_world_size() * len(micro_steps)
    skipped_before = engine.skipped_steps
    local_sums = torch.zeros_like(global_counts)
    for micro in micro_steps:
        loss_sums = engine(micro.inputs, micro.targets, micro.drop_path_scale)  # (4,)
        engine.backward((loss_sums * scale).sum() * undo_averaging)
        engine.step()  # acts on the last micro-step; on a gradient that is not finite, no rank does
        local_sums += loss_sums.detach()

    sums = summed_over_ranks(local_sums)
    means = (sums / global_counts.clamp(min=1)).tolist()
    record: dict[str, Any] = {
        "step": batch.step,
        "loss": float((sums * scale).sum()),
        "losses": {name: mean for name, mean, count in zip(OBJECTIVES, means, global_counts, strict=True) if count > 0},
        "grad_norm": float(engine.get_global_grad_norm() or 0.0),
        "lr": lr,
        "samples_seen": (batch.step + 1) * config.samples_per_step.total,
        "skipped": engine.skipped_steps > skipped_before,
        "bad_samples": int(num_bad_samples),
        "stop": num_stops > 0,
        "seconds": time.perf_counter() - start,
    }
    if config.log_sample_keys:
        record["keys"] = global_keys(config, batch)
    return record


def prepare(config: PretrainConfig, rank: int, world_size: int) -> tuple[VisualTokenizer, StepDataset, dict[str, Any]]:
    """All that can be wrong with a command is found out here, before the engine is built."""
    visual_tokenizer = load_visual_tokenizer(config.visual_tokenizer)
    dataset = open_dataset(config, visual_tokenizer, rank, world_size)
    deepspeed_config = merged_deepspeed_config(config, read_memory_config(config.deepspeed_config), world_size)
    prepare_run_dir(config.run_dir, rank)
    return visual_tokenizer, dataset, deepspeed_config


def initial_weights_fingerprint(config: PretrainConfig) -> str:
    """Of the weights to begin from. Raises ValueError, listing the differences, where they are not for this run."""
    folder = config.initial_weights
    assert folder is not None
    free = {"drop_path_rate", "init_std", "embed_init_std", "activation_checkpointing"}
    found, expected = asdict(read_config(folder)), asdict(config.model)
    differences = [
        f"model.{name} is {found[name]} there, {expected[name]} here"
        for name in expected
        if name not in free and found[name] != expected[name]
    ]
    text_tokenizer = folder / TEXT_TOKENIZER_NAME
    if text_tokenizer.is_file() and file_fingerprint(text_tokenizer) != file_fingerprint(config.data.text_tokenizer):
        differences.append(f"its words are those of {text_tokenizer}, not of {config.data.text_tokenizer}")
    if differences:
        raise ValueError(f"initial_weights {folder} do not fit: {'; '.join(differences)}")
    return file_fingerprint(folder / WEIGHTS_NAME)


def file_fingerprint(path: Path) -> str:
    """Changes with any byte of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def open_dataset(config: PretrainConfig, visual_tokenizer: VisualTokenizer, rank: int, world_size: int) -> StepDataset:
    """The data of a run. Raises ValueError where it does not fit the model."""
    visual, network = visual_tokenizer.config, config.model
    if (visual.grid_size, visual.num_codes) != (network.grid_size, network.num_visual_tokens):
        raise ValueError(
            f"visual tokenizer gives {visual.grid_size} x {visual.grid_size} codes of {visual.num_codes}, the model "
            f"expects {network.grid_size} x {network.grid_size} of {network.num_visual_tokens}; change one of them"
        )
    image_size = max(visual.image_size, network.image_size)
    ranks_per_node = int(os.environ.get("LOCAL_SIZE", world_size))
    dataset = StepDataset(
        config.data, config.samples_per_step, image_size, config.seed, rank, world_size, ranks_per_node
    )
    if dataset.tokenizer.vocab_size > network.vocab_size:
        raise ValueError(
            f"text tokenizer has {dataset.tokenizer.vocab_size} ids, more than model.vocab_size {network.vocab_size}; "
            f"set --model.vocab-size"
        )
    return dataset


def prepare_run_dir(run_dir: Path, rank: int) -> None:
    """Make the folder and try to write into it. Raises OSError where that fails."""
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        trial = run_dir / f".writable.{rank}"
        trial.write_text(f"{os.getpid()}\n")
        trial.unlink()
    except OSError as error:
        raise OSError(
            f"run_dir {run_dir} cannot be written ({error.strerror}); free space or choose another"
        ) from error


def leave_signals_to_the_rank() -> None:
    """A signal to the whole process group must not kill the loader under a rank that is about to save."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def summed_over_ranks(values: Tensor) -> Tensor:
    """The same sum on every rank."""
    dist.all_reduce(values)
    return values


def first_failure(batch: StepBatch) -> str:
    """Why the first rank that could not read its part could not, on every rank."""
    failures: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(failures, batch.failure)
    return next(failure for failure in failures if failure)


def global_keys(config: PretrainConfig, batch: StepBatch) -> list[str]:
    """The sample keys of the whole global batch, in its order, on every rank."""
    per_rank: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, batch.keys)
    per_step = config.samples_per_step
    keys, start = [], 0
    for total in (per_step.images, per_step.pairs, per_step.texts):
        part = total // len(per_rank)
        keys += [key for rank_keys in per_rank for key in rank_keys[start : start + part]]
        start += part
    return keys


if __name__ == "__main__":
    main()
