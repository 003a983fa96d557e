"""The training loop: read a batch, agree, step, record, save, stop. The same for every job (pretrain/jobs/job.py).

Exit codes: 0 all steps are done; 77 all are done, but too many were skipped; 75 stopped by SIGTERM, SIGUSR1 or Ctrl-C
and saved (rerun the same command to resume); 76 stopped by RUN/stop and saved; 2 a mistake in the command or the data,
a full disk, or too many skipped steps in a row; 71 a rank was lost (rerun the same command to resume). See
pretrain/survival/stop.py and docs/running.md.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from pretrain.config.run_config import ConfigT
from pretrain.config.schedule import decay_start
from pretrain.engine.engine import init_distributed
from pretrain.engine.schedule import learning_rate, set_learning_rate
from pretrain.engine.weight_average import update_average
from pretrain.jobs.job import Batch, Job
from pretrain.run.accumulate import accumulate
from pretrain.run.speed import memory_gib
from pretrain.run.start import EvaluationOf, Run, start
from pretrain.run.step_agreement import Agreed, agree, gather_keys
from pretrain.survival.agreement import FatalRunError, RetryableRunError, RunError, on_main_rank
from pretrain.survival.console import end_live, warn
from pretrain.survival.startup_log import end_startup, forget_startup
from pretrain.survival.stop import EXIT_CODES, EXIT_RANK_LOST, Ending, JobStatus, StopRequest, end_process
from pretrain.survival.watchdog import Watchdog


def run_job(kind: type[Job[ConfigT]], config: ConfigT, evaluation_of: EvaluationOf = lambda *_: None) -> NoReturn:
    """Train in this process, one of the ranks, and end it with the exit code of the run.

    evaluation_of: the evaluation on held-out data beside training; the default is none.
    """
    stop = StopRequest(config.run_dir)  # first, so that a signal during the start also ends the run in order
    device = init_distributed(config.hang_seconds)
    watchdog, status = Watchdog(config.silent_rank_seconds, config.hang_seconds), JobStatus()
    try:
        exit_code = run_to_its_end(kind(config, device), watchdog, stop, status, evaluation_of)
        dist.barrier()  # all have saved before one exits: launchers kill the other ranks at the first exit
    except Exception as error:  # on this rank alone, perhaps: the others may wait for it in a collective
        watchdog.failed(error)
    watchdog.end()
    end_process(exit_code)


def run_to_its_end(
    job: Job[ConfigT], watchdog: Watchdog, stop: StopRequest, status: JobStatus, evaluation_of: EvaluationOf
) -> int:
    """Train, report how the run ended, and return the exit code."""
    try:
        run = start(job, watchdog, stop, status, evaluation_of)
        end_startup()  # from here on, what libraries print is part of the run
        ending = train(run)
    except RunError as error:  # the same on every rank
        end_live()
        if dist.get_rank() == 0:
            warn(f"error: {error}")
        if isinstance(error, RetryableRunError):
            return EXIT_RANK_LOST
        forget_startup()
        ending = "mistake"
    watchdog.at("end")
    return 0 if status.report(ending) else EXIT_CODES[ending]


def train(run: Run[ConfigT]) -> Ending:
    """Train the steps that are left, until all are done or the run is asked to stop. Raises RunError."""
    try:
        ending = train_steps(run)
    except RunError:
        run.records.flush()
        with suppress(RunError):  # a checkpoint under way is worth keeping, whatever ends the run
            publish(run, run.saver.finish())
        run.monitors.close()
        raise
    run.monitors.close()
    return ending


def train_steps(run: Run[ConfigT]) -> Ending:
    """The body of the loop. Raises RunError."""
    config = run.config
    run.evaluations.begin(run.engine)
    run.watchdog.at("reading", run.first_step)
    for batch in run.batches():
        agreed = agree(run, batch)
        record = train_step(run, batch, agreed)
        done = batch.step + 1
        is_last = agreed.stop is not None or done == config.num_steps
        # from there, and from no later step, the run can still be prolonged
        begins_decay = done == decay_start(config)
        save_is_due = is_last or begins_decay or done % config.save_every_steps == 0
        record_step(run, record, agreed, save_is_due)
        after_step(run, batch.step, agreed.stop)
        run.watchdog.at("saving")
        if save_is_due or agreed.all_have_written:  # complete the checkpoint under way, a collective
            publish(run, run.saver.finish())
        if save_is_due:
            save(run, done, is_last)
        if agreed.stop is not None and done < config.num_steps:
            on_main_rank(run.report_stop, done)
            return agreed.stop
        run.watchdog.at("reading", done)
    on_main_rank(run.report_completion)
    return "many_skipped" if run.guard.has_skipped_many(config.num_steps) else "complete"


def train_step(run: Run[ConfigT], batch: Batch, agreed: Agreed) -> dict[str, Any]:
    """Run one optimizer step. Returns its log record, the same on every rank but for the seconds.

    Its figures may still be on the device, and on a GPU the seconds end when the step is launched.
    """
    started, config, engine = time.perf_counter(), run.config, run.engine
    lr = learning_rate(config.optimizer, batch.step, config.num_steps)
    set_learning_rate(engine.optimizer, lr)
    run.norms.begin(batch.step)
    run.watchdog.at("inputs")
    step = run.job.start_step(engine, batch)
    record, is_skipped = accumulate(engine, step, run.guard, run.watchdog)
    if not is_skipped:
        update_average(engine, config.optimizer.ema_decay)
    record = {"step": batch.step} | record
    record |= {
        "grad_norm": (grad_norm := engine.get_global_grad_norm()),
        **run.norms.fields(grad_norm),
        "lr": lr,
        "samples_seen": (batch.step + 1) * config.samples_per_step.total,
        "skipped": is_skipped,
        "bad_samples": agreed.num_bad_samples,
        "stop": agreed.stop is not None,
        "seconds": time.perf_counter() - started,
        "time": time.time(),
        "memory_gib": memory_gib(run.job.device),
    }
    if config.log_sample_keys or is_skipped:
        record["keys"] = gather_keys(config, batch)
    return record


def record_step(run: Run[ConfigT], record: dict[str, Any], agreed: Agreed, save_is_due: bool) -> None:
    """Count and log a step. Raises FatalRunError after too many skipped steps in a row."""
    too_many_skips = run.guard.count(record["skipped"])
    record["num_skipped_steps"] = run.guard.num_skipped_steps
    if save_is_due:
        record["passes"] = run.dataset.seen(record["step"] + 1)
    record |= run.speed.step_ended(agreed.work, record["seconds"], agreed.wait_seconds)
    run.records.add(record)
    if too_many_skips:
        raise FatalRunError(too_many_skips)


def after_step(run: Run[ConfigT], step: int, stop: Ending | None) -> None:
    """Evaluate and monitor beside training, on every rank, once the step is recorded. The one place for it."""
    run.watchdog.at("after step")
    run.job.after_step(run.engine, step)
    # a run that stops must save soon: its next start makes the evaluation
    if stop is None and run.evaluations.is_due(step + 1):
        run.records.flush()
        run.evaluations.after_step(run.engine, step + 1)
        run.speed.leave_out_time()


def save(run: Run[ConfigT], done: int, is_last: bool) -> None:
    """Take a checkpoint after `done` steps. It is written in the background, but for the last one."""
    run.records.flush(is_kept=True)
    on_main_rank(run.check_log)  # a checkpoint without the log lines before it would leave a gap after a resume
    run.saver.begin(done, run.guard.state(), run.evaluations.of_step(done))
    if is_last:
        newest = run.saver.finish()
        publish(run, newest)
        run.saver.close()
        on_main_rank(run.check_on_disk, newest)


def publish(run: Run[ConfigT], checkpoint: Path | None) -> None:
    """Report a complete checkpoint, and let the job publish it. All ranks call it. Raises RunError."""
    if checkpoint is not None:
        on_main_rank(run.publish, checkpoint)
