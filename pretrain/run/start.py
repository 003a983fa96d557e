"""From a config to a run that can step: all that happens once, before the first batch.

Every stage is agreed on by all ranks (`on_every_rank`): a rank that fails alone would leave the others waiting in the
next collective. Mistakes come first, the engine, which takes minutes, last.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import deepspeed
import torch.distributed as dist
from torch import nn

from data_pipeline.loading.loader import step_batches
from data_pipeline.loading.shard_dataset import ShardDataset
from pretrain.checkpoints.elastic import (
    holds_average,
    is_of_another_layout,
    load_checkpoint,
    load_optimizer,
    load_weights_into,
)
from pretrain.checkpoints.reader import Checkpoint, agreed_latest_checkpoint
from pretrain.checkpoints.saver import CheckpointSaver, check_there
from pretrain.config.run_config import ConfigT, config_to_json, settings_of
from pretrain.engine.determinism import use_deterministic_algorithms
from pretrain.engine.engine import build_engine, check_accepted, check_alike, merged_deepspeed_config
from pretrain.engine.machine_memory import check_buckets_fit
from pretrain.engine.memory_config import read_memory_config
from pretrain.engine.weight_average import DROPPED, settle_average
from pretrain.evaluation.evaluation import Evaluation
from pretrain.jobs.job import Batch, Job
from pretrain.monitoring.environment import add_start, describe_ranks
from pretrain.monitoring.figures import figures_of
from pretrain.monitoring.monitors import Monitors
from pretrain.monitoring.openers import check_installed, describe_monitors, openers
from pretrain.monitoring.part_norms import PartNorms
from pretrain.run.device_copies import batches_ahead
from pretrain.run.evaluations import Evaluations
from pretrain.run.parameter_bounds import keep_within
from pretrain.run.progress import Progress
from pretrain.run.run_log import RunLog
from pretrain.run.speed import SpeedMeter, TimedBatches
from pretrain.run.step_records import StepRecords
from pretrain.run.unchanged import agreed_fingerprints, check_unchanged
from pretrain.survival.agreement import on_every_rank, on_main_rank
from pretrain.survival.bad_samples import BadSampleBudget
from pretrain.survival.console import end_live, say, warn
from pretrain.survival.run_lock import lock_run
from pretrain.survival.step_guard import StepGuard
from pretrain.survival.stop import JobStatus, StopRequest, ignore_stop_signals
from pretrain.survival.watchdog import Watchdog

EvaluationOf = Callable[[Any, bool], Evaluation | None]
"""Returns the evaluation of a prepared job, None if its config has none, and checks its shards if the bool says so.
Raises ValueError."""


@dataclass(frozen=True)
class Run(Generic[ConfigT]):
    """A run that can step: the job under its engine, and all that surrounds a step."""

    job: Job[ConfigT]
    engine: deepspeed.DeepSpeedEngine
    dataset: ShardDataset[Any, Any]
    first_step: int
    """0, or the number of steps that the loaded checkpoint has done."""
    watchdog: Watchdog
    stop: StopRequest
    status: JobStatus
    guard: StepGuard
    records: StepRecords
    reading: TimedBatches
    speed: SpeedMeter
    norms: PartNorms
    monitors: Monitors
    log: RunLog | None
    """On the main rank."""
    bad_samples: BadSampleBudget
    saver: CheckpointSaver
    evaluations: Evaluations

    @property
    def config(self) -> ConfigT:
        return self.job.config

    def batches(self) -> Iterator[Batch]:
        """Yield this rank's part of each step that is left, on the device, the next one on its way there."""
        data, is_gpu = self.config.data, self.job.device.type == "cuda"
        batches = step_batches(
            self.dataset, self.first_step, self.config.num_steps, data.num_workers, ignore_stop_signals, is_gpu
        )
        return self.reading.timed(batches_ahead(batches, self.job.device))

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

    def report_completion(self) -> None:
        """Print that all steps are done, and forget a request to stop, which came too late. Main rank."""
        self.stop.forget_file()
        num_steps = self.config.num_steps
        skipped, left = self.guard.summary(num_steps), self.evaluations.left_out(num_steps)
        say(f"{self.config.run_dir} is complete: {num_steps} steps{skipped}{left}")

    def report_stop(self, done: int) -> None:
        """Print that the run was stopped, and forget the file that asked for it. Main rank."""
        end_live()
        self.stop.forget_file()
        say(f"stopped on request after step {done}, saved; rerun the same command to resume")


def start(
    job: Job[ConfigT],
    watchdog: Watchdog,
    stop: StopRequest,
    status: JobStatus,
    evaluation_of: EvaluationOf = lambda *_: None,
) -> Run[ConfigT]:
    """Start or resume the run of a job's config. All ranks call it.

    Raises FatalRunError for a mistake in the config, the data or the run folder, RetryableRunError if another start may
    succeed.
    """
    config, device = job.config, job.device
    watchdog.at("preparation")
    dataset, memory_config = on_every_rank(lambda: prepare(job))
    # one rank checks the shards, as in StepDataset
    evaluation = on_every_rank(lambda: evaluation_of(job, dist.get_rank() == 0))
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
    warnings = [] if evaluation is None else evaluation.warnings(dataset)
    log = on_main_rank(start_log, job, dataset, first_step, warnings)
    bad_samples = BadSampleBudget(config.run_dir, config.data.max_bad_samples)
    on_every_rank(lambda: bad_samples.read(first_step))  # before the main rank drops later lines from the file
    on_main_rank(bad_samples.write, first_step)
    saver = on_every_rank(lambda: CheckpointSaver(engine, config, memory_config, fingerprints, job.checkpoint_files()))
    on_main_rank(add_start, config.run_dir, first_step, describe_ranks(device))
    monitors = Monitors(
        openers(config.monitors, config.run_dir, settings_of(config)) if log is not None else (), first_step
    )
    progress = Progress(config.num_steps, first_step, job.progress_fields)

    def draw(record: dict[str, Any]) -> None:
        monitors.write(record["step"] + 1, figures_of(record))

    return Run(
        job=job,
        engine=engine,
        dataset=dataset,
        first_step=first_step,
        watchdog=watchdog,
        stop=stop,
        status=status,
        guard=guard,
        records=StepRecords(log, guard, watchers=(job.check_record, progress.show, draw)),
        reading=TimedBatches(),
        speed=SpeedMeter(dist.get_world_size(), device, config.dtype),
        norms=PartNorms(engine, job.part_of, config.monitors.norms_every_steps),
        monitors=monitors,
        log=log,
        bad_samples=bad_samples,
        saver=saver,
        evaluations=Evaluations(evaluation, config, first_step, stop, watchdog, monitors.write),
    )


def prepare(job: Job[ConfigT]) -> tuple[ShardDataset[Any, Any], dict[str, Any]]:
    """Return the data and the contents of the run's ds_configs/*.json. Raises ValueError or OSError."""
    config, rank, world_size = job.config, dist.get_rank(), dist.get_world_size()
    if config.deterministic:  # before anything is computed
        use_deterministic_algorithms()
    dataset, memory_config = open_inputs(job, rank, world_size)
    prepare_run_dir(config.run_dir, rank)
    if rank == 0:
        job.prepare_files()
    return dataset, memory_config


def open_inputs(job: Job[ConfigT], rank: int, world_size: int) -> tuple[ShardDataset[Any, Any], dict[str, Any]]:
    """Return what `prepare` returns, for a rank that need not be this process; writes nothing into the run folder."""
    config = job.config
    check_installed(config.monitors)
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
    keep_within(engine, job.bounds)
    decay = config.optimizer.ema_decay
    if checkpoint is not None:
        watchdog.at("loading")
        load_optimizer(engine, checkpoint, decay > 0) if is_elastic else load_checkpoint(engine, checkpoint)
    changed = settle_average(engine, decay)
    if checkpoint is not None and is_elastic and decay == 0:  # it was not loaded
        folder = checkpoint.folder
        changed = DROPPED if on_every_rank(lambda: holds_average(folder)) else ""
    if changed and dist.get_rank() == 0:
        say(changed)
    return engine


def start_log(job: Job[ConfigT], dataset: ShardDataset[Any, Any], first_step: int, warnings: list[str]) -> RunLog:
    """Return the main rank's log; prints what starts. warnings: those that config and data do not know."""
    config = job.config
    (config.run_dir / "config.json").write_text(config_to_json(config))
    is_complete = first_step == config.num_steps
    beginning = "is complete" if is_complete else f"continues at step {first_step}" if first_step else "starts"
    num_ranks = dist.get_world_size()
    ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)} on {job.device.type}, {config.precision}"
    ranks += ", deterministic" * config.deterministic
    say("\n".join([f"{config.run_dir} {beginning}: {ranks}", *job.describe(), *dataset.describe()]))
    say(describe_monitors(config.monitors))
    for warning in [*config.warnings(), *dataset.warnings(), *warnings]:
        warn(f"warning: {warning}")
    return RunLog(config.run_dir, first_step)
