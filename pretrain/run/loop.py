"""The training loop: batch, step, log, checkpoint, stop. What is trained, a `Job`, is in train.py and
train_visual_tokenizer.py.

A run ends with 0 when it is complete, 77 if too many of its steps were skipped, 75 when it was stopped by SIGTERM,
SIGUSR1 or Ctrl-C and saved (start the same command again to continue), 76 when it was stopped by RUN/stop, 2 for a
mistake in the command or the data, 71 when a rank was lost. See pretrain/survival/stop.py.
"""

import os
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from pretrain.checkpoints.elastic import is_of_another_layout, load_moments, load_weights_into
from pretrain.checkpoints.saver import (
    Checkpoint,
    CheckpointSaver,
    agreed_latest_checkpoint,
    check_there,
    load_checkpoint,
)
from pretrain.config.run_config import ConfigT, config_to_json
from pretrain.engine.engine import (
    build_engine,
    check_accepted,
    init_distributed,
    merged_deepspeed_config,
)
from pretrain.engine.machine_memory import check_buckets_fit
from pretrain.engine.memory_config import read_memory_config
from pretrain.engine.schedule import learning_rate, set_learning_rate
from pretrain.run.device_copies import batches_ahead
from pretrain.run.run_log import RunLog
from pretrain.run.speed import SpeedMeter, StepWork
from pretrain.run.step_records import StepRecords
from pretrain.run.unchanged import agreed_fingerprints, check_unchanged
from pretrain.survival.agreement import (
    FatalRunError,
    RetryableRunError,
    RunError,
    end_together,
    on_every_rank,
    summed_over_hosts,
)
from pretrain.survival.bad_samples import BadSampleBudget
from pretrain.survival.console import say, warn
from pretrain.survival.run_lock import lock_run
from pretrain.survival.step_guard import StepGuard
from pretrain.survival.stop import EXIT_CODES, EXIT_RANK_LOST, STOP_SIGNALS, Ending, JobStatus, StopRequest, end_process
from pretrain.survival.watchdog import Watchdog


class Job(ABC, Generic[ConfigT]):
    """What a run trains. All ranks call everything in the same order."""

    leaf_modules: ClassVar[tuple[type[nn.Module], ...]]
    """ZeRO-3 gathers each of these as one piece."""
    undecayed: ClassVar[tuple[str, ...]]
    """Ends of the names of parameters without weight decay, beside all of one dimension."""
    bfloat16_weights: ClassVar[bool]
    """Whether precision bfloat16 holds the weights in bfloat16 too; else only matrix products are."""

    guard: StepGuard
    """Its `factor` belongs to the last loss of a step, so that a step can be left out."""

    def __init__(self, config: ConfigT, device: torch.device, watchdog: Watchdog):
        self.config = config
        self.device = device
        self.watchdog = watchdog

    @abstractmethod
    def prepare(self, rank: int, world_size: int) -> StepDataset:
        """Open the data and what is not trained. All that can be wrong with a command is found out here, before the
        engine is built. Raises ValueError or OSError."""

    def describe(self) -> list[str]:
        """What the main rank says of the job when it begins, beside the data; one line each."""
        return []

    def work(self, batch: StepBatch) -> StepWork | None:
        """What this rank's part of a step is, for the log to tell speed by. None: it does not."""
        return None

    @abstractmethod
    def files(self, config: ConfigT) -> dict[str, Path | None]:
        """Return the files that define a run of that config, beside the shards, by name. None: it has no such file."""

    @abstractmethod
    def build_model(self, is_new: bool) -> nn.Module:
        """With initial weights, the same on every rank; is_new: they will not be replaced by a checkpoint's. Raises
        ValueError where given ones do not fit."""

    @abstractmethod
    def train_step(self, engine: deepspeed.DeepSpeedEngine, batch: StepBatch) -> dict[str, Any]:
        """Forward, backward and optimizer step on this rank's part of a global batch.

        Returns the log record, the same on every rank: at least `loss` and `losses`, its parts by name; tensors of one
        element are read later, so that the host need not wait for the device here.
        """

    def publish(self, checkpoint: Path) -> None:
        """Called on the main rank with a complete checkpoint, when it was loaded and whenever one was saved."""


def run_job(kind: type[Job[ConfigT]], config: ConfigT) -> NoReturn:
    """Train in this process, one of the ranks, to its end."""
    stop = StopRequest(config.run_dir)
    device = init_distributed(config.hang_seconds)
    watchdog, status = Watchdog(config.silent_rank_seconds, config.hang_seconds), JobStatus()
    try:
        exit_code = _run(kind(config, device, watchdog), stop, status)
        dist.barrier()  # no rank's exit code reaches the launcher before every rank has saved
    except Exception as error:
        watchdog.failed(error)
    watchdog.end()
    end_process(exit_code)


def _run(job: Job[ConfigT], stop: StopRequest, status: JobStatus) -> int:
    """Train, and tell how it ended. Returns the exit code."""
    is_main_rank = dist.get_rank() == 0
    try:
        ending: Ending = train(job, stop, status)
    except RunError as error:
        if is_main_rank:
            warn(f"error: {error}")
        if isinstance(error, RetryableRunError):
            return EXIT_RANK_LOST
        ending = "mistake"
    job.watchdog.at("end")
    return 0 if status.told(ending) else EXIT_CODES[ending]


def train(job: Job[ConfigT], stop: StopRequest, status: JobStatus) -> Ending:
    """Run or continue a run, until all steps are done or it is asked to stop.

    Raises FatalRunError for a mistake in the config, the data or the run folder, and for what nobody can go on with.
    """
    config, is_main_rank = job.config, dist.get_rank() == 0
    job.watchdog.at("preparation")
    dataset, memory_config = on_every_rank(lambda: prepare(job))
    # as long as lost ranks of a job before this one may last
    patience = min(2 * config.silent_rank_seconds, config.hang_seconds / 2)
    on_every_rank(lambda: lock_run(config.run_dir, patience, lambda: stop.signalled) if is_main_rank else None)
    checkpoint = agreed_latest_checkpoint(config)
    files = job.files(config)
    fingerprints = agreed_fingerprints(dataset, config, files)
    if checkpoint is not None:
        check_unchanged(checkpoint, config, fingerprints, job.files(checkpoint.config), files)

    job.watchdog.at("building")
    engine = build(job, memory_config, checkpoint)
    first_step, guard_state = (0, None) if checkpoint is None else (checkpoint.step, checkpoint.guard_state)
    job.guard = StepGuard(config.spike_deviations, config.max_consecutive_skips, guard_state)
    on_every_rank(lambda: status.begin(first_step) if is_main_rank else None)
    if checkpoint is not None:
        on_every_rank(lambda: job.publish(checkpoint.folder) if is_main_rank else None)
    log = on_every_rank(lambda: start_log(job, dataset, first_step) if is_main_rank else None)
    bad_samples = BadSampleBudget(config.run_dir, config.data.max_bad_samples)
    on_every_rank(lambda: bad_samples.read(first_step))
    on_every_rank(lambda: bad_samples.write(first_step) if is_main_rank else None)
    saver = on_every_rank(lambda: CheckpointSaver(engine, config, memory_config, fingerprints))
    speed = SpeedMeter(dist.get_world_size(), job.device, config.dtype)
    records = StepRecords(log, job.guard, speed)
    try:
        return run_steps(job, engine, dataset, first_step, stop, saver, bad_samples, records, status)
    except RunError:
        records.finish()
        with suppress(RunError):  # what is under way is worth keeping, whatever ends the run
            publish(job, status, saver.finish())
        raise


def run_steps(
    job: Job[ConfigT],
    engine: deepspeed.DeepSpeedEngine,
    dataset: StepDataset,
    first_step: int,
    stop: StopRequest,
    saver: CheckpointSaver,
    bad_samples: BadSampleBudget,
    records: StepRecords,
    status: JobStatus,
) -> Ending:
    """The steps that are left, with their log lines and checkpoints. Raises FatalRunError."""
    config, log, at = job.config, records.log, job.watchdog.at
    at("reading", first_step)
    workers, pin_memory = config.data.num_workers, job.device.type == "cuda"
    batches = step_batches(dataset, first_step, config.num_steps, workers, leave_signals_to_the_rank, pin_memory)
    for batch in batches_ahead(batches, job.device):
        at("agreement")
        agreed = agree(batch, job.work(batch), stop, saver, bad_samples, log)
        record = step_and_measure(job, engine, batch, agreed)
        done = batch.step + 1
        is_last = bool(agreed.stop) or done == config.num_steps
        save = is_last or done % config.save_every_steps == 0
        too_many_skips = job.guard.count(record["skipped"])
        record["num_skipped_steps"] = job.guard.num_skipped_steps
        records.add({**record, "passes": dataset.seen(done)} if save else record, agreed.work)
        if too_many_skips:
            raise FatalRunError(too_many_skips)
        at("saving")
        if agreed.is_written or save:
            publish(job, status, saver.finish())
        if save:
            records.finish(is_kept=True)
            on_every_rank(
                lambda: log.check() if log is not None else None
            )  # a checkpoint goes with all lines before it
            saver.begin(done, job.guard.state())
        if is_last:
            newest = saver.finish()
            publish(job, status, newest)
            saver.close()
            check_on_disk(newest, log)
        if agreed.stop and done < config.num_steps:
            if log is not None:
                stop.forget_file()
                say(f"stopped on request after step {done}, saved; the same command continues")
            return agreed.stop
        at("reading", done)
    if log is not None:
        say(f"{config.run_dir} is complete: {config.num_steps} steps{job.guard.summary(config.num_steps)}")
    return "many_skipped" if job.guard.has_skipped_many(config.num_steps) else "complete"


def check_on_disk(newest: Path | None, log: RunLog | None) -> None:
    """Raise FatalRunError if the newest checkpoint or the log is no longer in the run folder; all ranks call it."""

    def check() -> None:
        if log is not None and newest is not None:
            log.check()
            check_there(newest)

    on_every_rank(check)


def build(
    job: Job[ConfigT], memory_config: dict[str, Any], checkpoint: Checkpoint[ConfigT] | None
) -> deepspeed.DeepSpeedEngine:
    """The model under DeepSpeed, new or as the checkpoint has it. Raises FatalRunError."""
    config = job.config
    deepspeed_config = merged_deepspeed_config(config, memory_config, dist.get_world_size(), job.bfloat16_weights)
    is_elastic = checkpoint is not None and is_of_another_layout(checkpoint, memory_config)

    def build_model() -> nn.Module:
        model = job.build_model(checkpoint is None)
        if checkpoint is not None and is_elastic:
            load_weights_into(model, checkpoint.folder)
        return model

    model = on_every_rank(build_model)
    engine = build_engine(model, config, deepspeed_config, job.leaf_modules, job.undecayed)
    if checkpoint is not None:
        job.watchdog.at("loading")
        load_moments(engine, checkpoint) if is_elastic else load_checkpoint(engine, checkpoint)
    return engine


@dataclass(frozen=True)
class Agreed:
    """What any rank knows, known to all before a step."""

    stop: Ending | None
    """Whether this step is the last, and why."""
    num_bad_samples: int
    """Skipped in this step's batch, over all ranks."""
    is_written: bool
    """Every rank has written its files of the checkpoint under way."""
    work: StepWork | None
    """Of all ranks in this step."""


def agree(
    batch: StepBatch,
    work: StepWork | None,
    stop: StopRequest,
    saver: CheckpointSaver,
    bad_samples: BadSampleBudget,
    log: RunLog | None,
) -> Agreed:
    """Raises FatalRunError if a rank could not read its part of the batch, too many samples are bad, or the main
    rank could not log the step before; RetryableRunError if another start may log it."""
    is_asked_by_file = dist.get_rank() == 0 and stop.is_asked_by_file
    has_failed = bool(batch.failure) or (log is not None and log.failure is not None)
    own_work = (0, 0) if work is None else (work.num_tokens, work.flops)
    own = [stop.signalled, is_asked_by_file, len(batch.bad_samples), has_failed, saver.is_written, *own_work]
    num_signals, num_files, num_bad_samples, num_failures, num_written, *all_work = summed_over_hosts(own)
    if num_bad_samples:
        bad_samples.add(batch.step, batch.bad_samples)
    if num_failures:
        failure = batch.failure and f"the data of step {batch.step} cannot be read: {batch.failure}"
        end_together(failure, is_mistake=True)
        on_every_rank(lambda: log.check() if log is not None else None)
    why: Ending | None = "stopped_by_file" if num_files else "stopped" if num_signals else None
    is_written = num_written == dist.get_world_size()
    return Agreed(why, num_bad_samples, is_written, None if work is None else StepWork(*all_work))


def step_and_measure(
    job: Job[ConfigT], engine: deepspeed.DeepSpeedEngine, batch: StepBatch, agreed: Agreed
) -> dict[str, Any]:
    """One optimizer step. Returns its log record, the same on every rank but for the seconds; its figures may still be
    on the device, and on a GPU the seconds end when the step is launched."""
    start, config = time.perf_counter(), job.config
    lr = learning_rate(config.optimizer, batch.step, config.num_steps)
    set_learning_rate(engine.optimizer, lr)
    skipped_before = engine.skipped_steps
    record = {"step": batch.step, **job.train_step(engine, batch)}
    record |= {
        "grad_norm": engine.get_global_grad_norm(),
        "lr": lr,
        "samples_seen": (batch.step + 1) * config.samples_per_step.total,
        "skipped": engine.skipped_steps > skipped_before,
        "bad_samples": agreed.num_bad_samples,
        "stop": bool(agreed.stop),
        "seconds": time.perf_counter() - start,
    }
    if config.log_sample_keys or record["skipped"]:
        record["keys"] = global_keys(config, batch)
    return record


def prepare(job: Job[ConfigT]) -> tuple[StepDataset, dict[str, Any]]:
    """The data, and what the run's ds_configs/*.json holds. Raises ValueError or OSError."""
    config, rank, world_size = job.config, dist.get_rank(), dist.get_world_size()
    dataset = job.prepare(rank, world_size)
    memory_config = read_memory_config(config.deepspeed_config)
    check_accepted(merged_deepspeed_config(config, memory_config, world_size, job.bfloat16_weights))
    check_buckets_fit(config.deepspeed_config, memory_config["zero_optimization"], job.device)
    prepare_run_dir(config.run_dir, rank)
    return dataset, memory_config


def prepare_run_dir(run_dir: Path, rank: int) -> None:
    """Make the folder and try to write into it. Raises OSError where that fails."""
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=f".writable.{rank}.") as trial:  # no name to be foreseen
            trial.write(b"writable\n")
            trial.flush()
    except OSError as error:
        raise OSError(
            f"run_dir {run_dir} cannot be written ({error.strerror}); free space or choose another"
        ) from error


def open_dataset(config: ConfigT, image_size: int, rank: int, world_size: int) -> StepDataset:
    """The data of a run; image_size: side of its images in pixels. Raises ValueError where it is not sound."""
    ranks_per_node = int(os.environ.get("LOCAL_SIZE", world_size))
    return StepDataset(config.data, config.samples_per_step, image_size, config.seed, rank, world_size, ranks_per_node)


def publish(job: Job[ConfigT], status: JobStatus, checkpoint: Path | None) -> None:
    """Report a complete checkpoint, and let the main rank publish it; all ranks call it. Raises FatalRunError."""
    if checkpoint is None:
        return

    def tell() -> None:
        step = int(checkpoint.name.removeprefix("step_"))
        say(f"saved step {step} of {job.config.num_steps} in {checkpoint}")
        status.saved(step)
        job.publish(checkpoint)

    on_every_rank(lambda: tell() if dist.get_rank() == 0 else None)


def start_log(job: Job[ConfigT], dataset: StepDataset, first_step: int) -> RunLog:
    """The main rank's log; says what begins."""
    config = job.config
    (config.run_dir / "config.json").write_text(config_to_json(config))
    is_complete = first_step == config.num_steps
    beginning = "is complete" if is_complete else f"continues at step {first_step}" if first_step else "starts"
    num_ranks = dist.get_world_size()
    ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)} on {job.device.type}, {config.precision}"
    say("\n".join([f"{config.run_dir} {beginning}: {ranks}", *job.describe(), *dataset.describe()]))
    for warning in [*config.warnings(), *dataset.warnings()]:
        warn(f"warning: {warning}")
    return RunLog(config.run_dir, first_step, config.num_steps)


def leave_signals_to_the_rank() -> None:
    """A signal to the whole process group must not kill the loader under a rank that is about to save."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def global_keys(config: ConfigT, batch: StepBatch) -> list[str]:
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
