"""What single ranks know before a step, known to all, so that every rank takes the same decisions.

A signal may reach one rank, a damaged sample or a full disk may concern one node. A rank that stopped or failed by
itself would leave the others waiting in their next collective.
"""

from dataclasses import dataclass

import torch.distributed as dist

from pretrain.config.run_config import ConfigT
from pretrain.jobs.job import Batch, StepWork
from pretrain.run.start import Run
from pretrain.survival.agreement import end_together, on_main_rank, summed_over_hosts
from pretrain.survival.stop import Ending


@dataclass(frozen=True)
class Agreed:
    """Facts that all ranks agree on before a step."""

    stop: Ending | None
    """How the run ends after this step; None: it goes on."""
    num_bad_samples: int
    """Samples skipped in this step's batch, over all ranks."""
    all_have_written: bool
    """Whether every rank has written its files of the checkpoint under way."""
    work: StepWork | None
    """Work of all ranks in this step."""
    wait_seconds: float
    """Time that the rank with the slowest data waited for them."""


def agree(run: Run[ConfigT], batch: Batch) -> Agreed:
    """Sum over all ranks what each knows. One small collective of the hosts, while their GPUs compute the step before.

    Raises FatalRunError if a rank could not read its part of the batch, too many samples are bad, or the main rank
    could not log the step before; RetryableRunError if another start may succeed.
    """
    run.watchdog.at("agreement")
    work = run.job.work(batch)
    is_asked_by_file = run.log is not None and run.stop.is_asked_by_file
    has_failed = bool(batch.failure) or (run.log is not None and run.log.failure is not None)
    own = [run.stop.signalled, is_asked_by_file, len(batch.bad_samples), has_failed, run.saver.is_written]
    own += (0, 0) if work is None else (work.num_tokens, work.flops)
    # one sum for all, since each costs the latency of the network: every rank has a place of its own for its wait
    waits = [0] * dist.get_world_size()
    waits[dist.get_rank()] = round(run.reading.wait_seconds * 1e6)
    num_signals, num_files, num_bad_samples, num_failures, num_written, *others = summed_over_hosts(own + waits)
    all_work, all_waits = others[: -len(waits)], others[-len(waits) :]
    if num_bad_samples:
        run.bad_samples.add(batch.step, batch.bad_samples)
    if num_failures:
        failure = batch.failure and f"the data of step {batch.step} cannot be read: {batch.failure}"
        end_together(failure, is_mistake=True)
        on_main_rank(run.check_log)
    stop: Ending | None = "stopped_by_file" if num_files else "stopped" if num_signals else None
    return Agreed(
        stop,
        num_bad_samples,
        all_have_written=num_written == dist.get_world_size(),
        work=None if work is None else StepWork(*all_work),
        wait_seconds=max(all_waits) / 1e6,
    )


def gather_keys(config: ConfigT, batch: Batch) -> list[str]:
    """Return the sample keys of the whole global batch, in its order, on every rank."""
    per_rank: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, batch.keys)
    keys, first = [], 0
    for total in vars(config.samples_per_step).values():  # ranks hold equal parts of each kind, one after the other
        part = total // len(per_rank)
        keys += [key for rank_keys in per_rank for key in rank_keys[first : first + part]]
        first += part
    return keys
