"""Settings of what is shown of a run while it goes on. None of them touches what is computed."""

from dataclasses import dataclass
from typing import Literal

from data_pipeline.settings.ranges import CountOrZero, check_ranges


@dataclass(frozen=True)
class MonitorConfig:
    """Monitors beside log.jsonl, which every run writes; docs/watching.md."""

    tensorboard: Literal["auto", "on", "off"] = "auto"
    """Write RUN/tensorboard. auto: if the package tensorboard is installed."""
    csv: bool = False
    """Write RUN/figures.csv, one row per figure: step, time, name, value."""
    wandb: str = ""
    """Project at Weights & Biases; empty: none. WANDB_MODE, WANDB_ENTITY and others apply as usual."""
    mlflow: str = ""
    """Experiment at MLflow; empty: none. MLFLOW_TRACKING_URI and others apply as usual."""
    norms_every_steps: CountOrZero = 50
    """Number of steps between two measurements of the norms of gradients and weights of each part of the network; 0
    measures none. Costs one pass over the gradients and weights that a rank owns, and one small all-reduce."""

    def __post_init__(self) -> None:
        check_ranges(self)
