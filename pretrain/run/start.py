"""From a config to a run that can step: all that happens once, before the first batch.

Every stage is agreed on by all ranks (`on_every_rank`): a rank that fails alone would leave the others waiting in the
next collective. Mistakes come first, the engine, which takes minutes, last.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import deepspeed
import torch.distributed as dist
from torch import nn

from data_pipeline.loading.batch import StepBatch
from data_pipeline.loading.dataset import StepDataset
from data_pipeline.loading.loader import step_batches
from pretrain.checkpoints.elastic import is_of_another_layout, load_checkpoint, load_moments, load_weights_into
from pretrain.checkpoints.reader import Checkpoint, agreed_latest_checkpoint
from pretrain.checkpoints.saver import CheckpointSaver, check_there
from pretrain.config.run_config import ConfigT, config_to_json
from pretrain.engine.determinism import use_deterministic_algorithms
from pretrain.engine.engine import build_engine, check_accepted, check_alike, merged_deepspeed_config
from pretrain.engine.machine_memory import check_buckets_fit
from pretrain.engine.memory_config import read_memory_config
from pretrain.jobs.job import Job
from pretrain.run.device_copies import batches_ahead
from pretrain.run.run_log import RunLog
from pretrain.run.speed import SpeedMeter
from pretrain.run.step_records import StepRecords
from pretrain.run.unchanged import agreed_fingerprints, check_unchanged
from pretrain.survival.agreement import on_every_rank, on_main_rank
from pretrain.survival.bad_samples import BadSampleBudget
from pretrain.survival.console import say, warn
from pretrain.survival.run_lock import lock_run
from pretrain.survival.step_guard import StepGuard
from pretrain.survival.stop import JobStatus, StopRequest, ignore_stop_signals
from pretrain.survival.watchdog import Watchdog


@dataclass(frozen=True)
class Run(Generic[ConfigT]):
    """A run that can step: the job under its engine, and all that surrounds a step."""

    job: Job[ConfigT]
    engine: deepspeed.DeepSpeedEngine
    dataset: StepDataset
    first_step: int
    """0, or the number of steps that the loaded checkpoint has done."""
    watchdog: Watchdog
    stop: StopRequest
    status: JobStatus
    guard: StepGuard
    records: StepRecords
    log: RunLog | None
    """On the main rank."""
    bad_samples: BadSampleBudget
    saver: CheckpointSaver

    @property
    def config(self) -> ConfigT:
        return self.job.config

    def batches(self) -> Iterator[StepBatch]:
        """Yield this rank's part of each step that is left, on the device, the next one on its way there."""
        data, is_gpu = self.config.data, self.job.device.type == "cuda"
        batches = step_batches(
            self.dataset, self.first_step, self.config.num_steps, data.num_workers, ignore_stop_signals, is_gpu
        )
        return batches_ahead(batches, self.job.device)

    def check_log(self) -> None:
        """Raise OSError if a line could not be logged, or the log is no longer in the run folder. Main rank."""
        if self.log is not None:
            self.log.check()

    def check_on_disk(self, newest: Path | None) -> None:
        """Raise OSError if the newest checkpoint or the log is no longer in the run folder. Main rank."""
        if newest is not None:
            self.check_log()
            check_there(newest)

    def publish(self, checkpoint: Path) -> None:
        """Report a complete checkpoint, and let the job publish it. Main rank. Raises OSError."""
        step = int(checkpoint.name.removeprefix("step_"))
        say(f"saved step {step} of {self.config.num_steps} in {checkpoint}")
        self.status.saved(step)
        self.job.publish(checkpoint)

    def report_stop(self, done: int) -> None:
        """Print that the run was stopped, and forget the file that asked for it. Main rank."""
        self.stop.forget_file()
        say(f"stopped on request after step {done}, saved; rerun the same command to resume")


def start(job: Job[ConfigT], watchdog: Watchdog, stop: StopRequest, status: JobStatus) -> Run[ConfigT]:
    """Start or resume the run of a job's config. All ranks call it.

    Raises FatalRunError for a mistake in the config, the data or the run folder, RetryableRunError if another start may
    succeed.
    """
    config, device = job.config, job.device
    watchdog.at("preparation")
    dataset, memory_config = on_every_rank(lambda: prepare(job))
    # auto takes what is installed on a node
    check_alike("kernels or settings", ", ".join(job.describe()), "set kernels and flash_attention yourself")
    on_main_rank(lock_run, config.run_dir, seconds_for_the_job_before(config), lambda: stop.signalled)
    checkpoint = agreed_latest_checkpoint(config)
    files = job.files(config)
    fingerprints = agreed_fingerprints(dataset, config, files)
    if checkpoint is not None:
        check_unchanged(checkpoint, config, fingerprints, job.files(checkpoint.config), files)

    watchdog.at("building")
    engine = build(job, memory_config, checkpoint, watchdog)
    first_step, guard_state = (0, None) if checkpoint is None else (checkpoint.step, checkpoint.guard_state)
    guard = StepGuard(config.spike_deviations, config.max_consecutive_skips, guard_state)
    on_main_rank(status.begin, first_step)
    if checkpoint is not None:
        on_main_rank(job.publish, checkpoint.folder)  # the start that saved it may have been killed before it could
    log = on_main_rank(start_log, job, dataset, first_step)
    bad_samples = BadSampleBudget(config.run_dir, config.data.max_bad_samples)
    on_every_rank(lambda: bad_samples.read(first_step))  # before the main rank drops later lines from the file
    on_main_rank(bad_samples.write, first_step)
    saver = on_every_rank(lambda: CheckpointSaver(engine, config, memory_config, fingerprints, job.checkpoint_files()))
    records = StepRecords(log, guard, SpeedMeter(dist.get_world_size(), device, config.dtype), job.check_record)
    return Run(job, engine, dataset, first_step, watchdog, stop, status, guard, records, log, bad_samples, saver)


def prepare(job: Job[ConfigT]) -> tuple[StepDataset, dict[str, Any]]:
    """Return the data and the contents of the run's ds_configs/*.json. Raises ValueError or OSError."""
    config, rank, world_size = job.config, dist.get_rank(), dist.get_world_size()
    if config.deterministic:  # before anything is computed
        use_deterministic_algorithms()
    dataset, memory_config = open_inputs(job, rank, world_size)
    prepare_run_dir(config.run_dir, rank)
    if rank == 0:
        job.prepare_files()
    return dataset, memory_config


def open_inputs(job: Job[ConfigT], rank: int, world_size: int) -> tuple[StepDataset, dict[str, Any]]:
    """Return what `prepare` returns, for a rank that need not be this process; writes nothing into the run folder."""
    config = job.config
    dataset = job.prepare(rank, world_size)
    memory_config = read_memory_config(config.deepspeed_config)
    check_accepted(merged_deepspeed_config(config, memory_config, world_size, job.bfloat16_weights), world_size)
    check_buckets_fit(config.deepspeed_config, memory_config["zero_optimization"], job.device)
    return dataset, memory_config


def prepare_run_dir(run_dir: Path, rank: int) -> None:
    """Make the folder and try to write into it. Raises OSError if that fails."""
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_dir, prefix=f".writable.{rank}.") as trial:  # an unpredictable name
            trial.write(b"writable\n")
            trial.flush()
    except OSError as error:
        raise OSError(
            f"run_dir {run_dir} cannot be written ({error.strerror}); free space or choose another"
        ) from error


def seconds_for_the_job_before(config: ConfigT) -> float:
    """Return how long ranks of an earlier job, which lost its launcher, may still hold the run."""
    return min(2 * config.silent_rank_seconds, config.hang_seconds / 2)


def build(
    job: Job[ConfigT], memory_config: dict[str, Any], checkpoint: Checkpoint[ConfigT] | None, watchdog: Watchdog
) -> deepspeed.DeepSpeedEngine:
    """Return the model under DeepSpeed, new or as the checkpoint has it. Raises FatalRunError."""
    config = job.config
    deepspeed_config = merged_deepspeed_config(config, memory_config, dist.get_world_size(), job.bfloat16_weights)

    def build_model() -> tuple[nn.Module, bool]:
        model = job.build_model(checkpoint is None)
        is_elastic = checkpoint is not None and is_of_another_layout(checkpoint, memory_config, model)
        if checkpoint is not None and is_elastic:
            load_weights_into(model, checkpoint.folder)
        return model, is_elastic

    model, is_elastic = on_every_rank(build_model)
    engine = build_engine(model, config, deepspeed_config, job.leaf_modules, job.undecayed, job.lr_scale)
    if checkpoint is not None:
        watchdog.at("loading")
        load_moments(engine, checkpoint) if is_elastic else load_checkpoint(engine, checkpoint)
    return engine


def start_log(job: Job[ConfigT], dataset: StepDataset, first_step: int) -> RunLog:
    """Return the main rank's log; prints what starts."""
    config = job.config
    (config.run_dir / "config.json").write_text(config_to_json(config))
    is_complete = first_step == config.num_steps
    beginning = "is complete" if is_complete else f"continues at step {first_step}" if first_step else "starts"
    num_ranks = dist.get_world_size()
    ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)} on {job.device.type}, {config.precision}"
    ranks += ", deterministic" * config.deterministic
    say("\n".join([f"{config.run_dir} {beginning}: {ranks}", *job.describe(), *dataset.describe()]))
    for warning in [*config.warnings(), *dataset.warnings()]:
        warn(f"warning: {warning}")
    return RunLog(config.run_dir, first_step, config.num_steps, job.progress_fields)
