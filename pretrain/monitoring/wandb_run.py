"""A run at Weights & Biases. A resumed run goes on under the same id.

W&B deletes nothing: it ignores steps up to the last one that it has. So if a run goes back to a checkpoint, the points
that it has stay, nothing is doubled, and `restarts` in the run's config lists the steps from which it went on.
"""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from pretrain.monitoring.tracking_ids import read_tracking_id, write_tracking_id

SERVER = "wandb"


class WandbRun:
    """The run under its id."""

    def __init__(self, run_dir: Path, project: str, config: Mapping[str, Any], first_step: int):
        """config: shown beside the run; first_step: first one that will be written. Raises wandb.errors.Error."""
        settings = wandb.Settings(console="off", silent=True)  # prints nothing, and leaves our output alone
        if os.environ.get("WANDB_MODE", "online") == "online" and not has_key():
            raise ValueError("no API key: run wandb login, or set WANDB_MODE=offline")
        known = read_tracking_id(run_dir, SERVER)
        self._run = wandb.init(
            project=project,
            dir=run_dir,
            name=run_dir.name,
            id=known,
            resume="allow",
            config=dict(config),
            settings=settings,
        )
        write_tracking_id(run_dir, SERVER, self._run.id)
        restarts = [*self._run.config.get("restarts", []), first_step - 1] if known else []
        self._run.config.update({"restarts": restarts}, allow_val_change=True)

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        if step >= self._run.step:
            self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


def has_key() -> bool:
    """Return whether W&B knows an API key, without which it would ask for one on the terminal."""
    if "prompt" in inspect.signature(wandb.login).parameters:
        return wandb.login(prompt=False)
    return bool(wandb.api.api_key)  # of older versions
