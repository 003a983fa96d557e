"""How may a resumed run change the number of its steps? Only in ways that leave the steps already done as they were.

Under wsd and constant the learning rate of a step before the decay does not depend on the number of steps, so a run may
be prolonged, shortened, or ended well at any time. Under cosine every step depends on it. docs/schedules.md explains
the use; pretrain/engine/schedule.py has the formulas.
"""

from collections.abc import Sequence

from data_pipeline.settings.changes import changes
from pretrain.config.run_config import RunConfig

BY_COSINE = "under the schedule cosine the learning rate of steps already done depends on it"


def decay_start(config: RunConfig) -> int | None:
    """Return the number of steps before the decay of wsd; None if the learning rate has no such phase."""
    optimizer = config.optimizer
    return config.num_steps - optimizer.decay_steps if optimizer.schedule == "wsd" else None


def schedule_changes(before: RunConfig, now: RunConfig) -> list[str]:
    """Return one 'NAME was OLD, is now NEW: REASON' for each setting that no checkpoint could be resumed with."""
    if "cosine" not in (before.optimizer.schedule, now.optimizer.schedule):
        return []
    return [f"{change}: {BY_COSINE}" for change in changes(_settings(before), _settings(now))]


def check_schedule(before: RunConfig, now: RunConfig, done: int, kept: Sequence[int]) -> None:
    """Raise ValueError, with the remedy, if steps already done had another learning rate than they would have now.

    before: the config of a checkpoint; done: the number of its steps; kept: those of all complete checkpoints of the
    run.
    """
    if _settings(before) == _settings(now):
        return
    began, begins, num_decayed = decay_start(before), decay_start(now), now.optimizer.decay_steps
    if began is not None and done > began:
        earlier = [step for step in kept if step <= min(began, now.num_steps if begins is None else begins)]
        raise ValueError(
            f"{now.run_dir} is at step {done}, inside the decay that began at step {began}, so its settings cannot "
            f"change ({'; '.join(changes(_settings(before), _settings(now)))}); {_remedy(before, earlier)}"
        )
    if begins is not None and done > begins:
        raise ValueError(
            f"num_steps {now.num_steps} is too low: {done} steps are done, and a decay of {num_decayed} steps can "
            f"begin now at the earliest; give num_steps {done + num_decayed} or more, or fewer decay_steps"
        )
    if done > now.num_steps:
        raise ValueError(f"num_steps {now.num_steps} is below the {done} steps that are done; give {done} or more")


def _settings(config: RunConfig) -> dict[str, object]:
    """Return the settings that a learning rate depends on and that a resumed run may change."""
    optimizer = config.optimizer
    return {
        "num_steps": config.num_steps,
        "optimizer.schedule": optimizer.schedule,
        "optimizer.decay_steps": optimizer.decay_steps,
    }


def _remedy(before: RunConfig, earlier: Sequence[int]) -> str:
    if earlier:
        return (
            f"to go on from step_{max(earlier):08d}, which is from before the decay, move the checkpoints after it out "
            f"of {before.run_dir / 'checkpoints'}"
        )
    return (
        "no checkpoint from before the decay is kept: give the settings of its start to finish it, or start a new run "
        "from its weights"
    )
