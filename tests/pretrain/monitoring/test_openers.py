"""Which monitors a run has, and what is said of those that are missing. CPU, under a second."""

from pathlib import Path

import pytest

from pretrain.config.monitors import MonitorConfig
from pretrain.monitoring import openers as module
from pretrain.monitoring.csv_table import TABLE_NAME
from pretrain.monitoring.openers import check_installed, describe_monitors, openers


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name)


@pytest.mark.usefixtures("all_installed")
def test_settings_choose_monitors(tmp_path: Path) -> None:
    def names(config: MonitorConfig) -> list[str]:
        check_installed(config)
        return [opener.name for opener in openers(config, tmp_path, {})]

    assert names(MonitorConfig()) == ["tensorboard"]
    assert names(MonitorConfig(tensorboard="off")) == []
    every = MonitorConfig(csv=True, wandb="beit3", mlflow="beit3")
    assert names(every) == ["tensorboard", "csv", "wandb", "mlflow"]
    assert describe_monitors(every) == "monitors: log.jsonl, tensorboard, csv, wandb, mlflow"


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_package_is_said_in_one_sentence(tmp_path: Path) -> None:
    check_installed(MonitorConfig())
    assert openers(MonitorConfig(), tmp_path, {}) == []
    sentence = "monitors: log.jsonl; pip install tensorboard adds curves in the browser"
    assert describe_monitors(MonitorConfig()) == sentence
    for config, package in [
        (MonitorConfig(tensorboard="on"), "tensorboard"),
        (MonitorConfig(wandb="beit3"), "wandb"),
        (MonitorConfig(mlflow="beit3"), "mlflow-skinny"),
    ]:
        with pytest.raises(ValueError, match=rf"needs the package {package}; pip install {package}, or leave it out"):
            check_installed(config)


def test_an_opener_makes_its_monitor(tmp_path: Path) -> None:
    (opener,) = openers(MonitorConfig(tensorboard="off", csv=True), tmp_path, {})
    opener.open(1).write(1, 2.0, {"loss": 3.0})
    assert (tmp_path / TABLE_NAME).read_text().splitlines()[1:] == ["1,2.000,loss,3.0"]
