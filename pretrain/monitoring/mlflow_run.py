"""A run at MLflow. A resumed run goes on under the same id.

MLflow keeps every value that it gets, so steps that it has already are not sent again if a run goes back to a
checkpoint; the tag `restarts` lists the steps from which it went on. It forgets nothing and doubles nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

from pretrain.monitoring.tracking_ids import read_tracking_id, write_tracking_id

SERVER = "mlflow"
LAST_STEP = "last_step"
"""A metric that holds the newest step of training figures, by which a later start knows what is there."""
LAST_EVALUATED = "last_evaluated_step"
"""The same for evaluations, which follow the training figures of their step, perhaps in a later start."""


class MlflowRun:
    """The run under its id."""

    def __init__(self, run_dir: Path, experiment: str, settings: Mapping[str, object], first_step: int):
        """settings: shown as parameters; first_step: first one that will be written. Raises MlflowException."""
        self._client = MlflowClient()
        known = read_tracking_id(run_dir, SERVER)
        self._id = known or self._create(run_dir, experiment, settings)
        write_tracking_id(run_dir, SERVER, self._id)
        self._newest = {LAST_STEP: 0, LAST_EVALUATED: -1}
        if known is not None:
            found = self._client.get_run(self._id).data
            self._newest = {name: int(found.metrics.get(name, none)) for name, none in self._newest.items()}
            restarts = " ".join(filter(None, [found.tags.get("restarts"), str(first_step - 1)]))
            self._client.set_tag(self._id, "restarts", restarts)
            self._client.update_run(self._id, status="RUNNING")

    def _create(self, run_dir: Path, experiment: str, settings: Mapping[str, object]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        run = self._client.create_run(number, run_name=run_dir.name)
        for name, value in settings.items():
            self._client.log_param(run.info.run_id, name, str(value)[:500])
        return run.info.run_id

    def write(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        name_of_newest = LAST_STEP if "loss" in figures else LAST_EVALUATED
        if step <= self._newest[name_of_newest]:
            return
        values = {**figures, name_of_newest: step}
        metrics = [Metric(metric_name(name), value, int(seconds * 1000), step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def metric_name(name: str) -> str:
    """Return a name that MLflow takes: loss.mim for loss/mim, since its files cannot hold both that and loss."""
    return re.sub(r"[^\w.\- ]", ".", name)
