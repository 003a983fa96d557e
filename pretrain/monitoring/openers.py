"""From settings to monitors, whose libraries are imported when they are needed."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pretrain.config.monitors import MonitorConfig
from pretrain.monitoring.monitors import Monitor, Opener

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What pip installs for each monitor."""
MODULES = {"tensorboard": "tensorboard_events", "csv": "csv_table", "wandb": "wandb_run", "mlflow": "mlflow_run"}
"""Module of each monitor, which imports its library."""


def check_installed(config: MonitorConfig) -> None:
    """Raise ValueError if a monitor that is asked for by name is not installed."""
    asked = {"tensorboard": config.tensorboard == "on", "wandb": bool(config.wandb), "mlflow": bool(config.mlflow)}
    for name, package in PACKAGES.items():
        if asked[name] and find_spec(name) is None:
            raise ValueError(f"monitors.{name} needs the package {package}; pip install {package}, or leave it out")


def describe_monitors(config: MonitorConfig) -> str:
    """Return a line for the start of a run: which monitors it has."""
    names = [name for name, is_on in _is_on(config).items() if is_on]
    is_missing = config.tensorboard == "auto" and "tensorboard" not in names
    remedy = "; pip install tensorboard adds curves in the browser" if is_missing else ""
    return f"monitors: {', '.join(['log.jsonl', *names])}{remedy}"


def openers(config: MonitorConfig, run_dir: Path, settings: Mapping[str, Any]) -> list[Opener]:
    """Return the monitors of a run, not yet opened; settings: of the run, shown beside its curves."""
    makers: dict[str, Callable[[int], Monitor]] = {
        "tensorboard": lambda first_step: _tensorboard(run_dir, first_step),
        "csv": lambda first_step: _csv(run_dir, first_step),
        "wandb": lambda first_step: _wandb(config, run_dir, settings, first_step),
        "mlflow": lambda first_step: _mlflow(config, run_dir, settings, first_step),
    }
    names = [name for name, is_on in _is_on(config).items() if is_on]
    for name in names:
        # here, and not in a thread: a loader worker that is forked during an import could wait for its lock for ever
        with suppress(Exception):  # a library that is broken is reported by the monitor's thread
            import_module(f"pretrain.monitoring.{MODULES[name]}")
    return [Opener(name, makers[name]) for name in names]


def _is_on(config: MonitorConfig) -> dict[str, bool]:
    tensorboard = config.tensorboard == "on" or (config.tensorboard == "auto" and find_spec("tensorboard") is not None)
    return {"tensorboard": tensorboard, "csv": config.csv, "wandb": bool(config.wandb), "mlflow": bool(config.mlflow)}


def _tensorboard(run_dir: Path, first_step: int) -> Monitor:
    from pretrain.monitoring.tensorboard_events import TensorBoardEvents

    return TensorBoardEvents(run_dir, first_step)


def _csv(run_dir: Path, first_step: int) -> Monitor:
    from pretrain.monitoring.csv_table import CsvTable

    return CsvTable(run_dir, first_step)


def _wandb(config: MonitorConfig, run_dir: Path, settings: Mapping[str, Any], first_step: int) -> Monitor:
    from pretrain.monitoring.wandb_run import WandbRun

    return WandbRun(run_dir, config.wandb, settings, first_step)


def _mlflow(config: MonitorConfig, run_dir: Path, settings: Mapping[str, Any], first_step: int) -> Monitor:
    from pretrain.monitoring.mlflow_run import MlflowRun

    return MlflowRun(run_dir, config.mlflow, settings, first_step)
