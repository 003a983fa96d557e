"""A run at MLflow, kept in a file: under one id over restarts, with no step twice. CPU; skipped without MLflow."""

from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")

from mlflow import MlflowClient, set_tracking_uri

from pretrain.monitoring.mlflow_run import SERVER, MlflowRun
from pretrain.monitoring.tracking_ids import read_tracking_id


def test_a_resumed_run_goes_on_under_its_id_without_doubling_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    set_tracking_uri((tmp_path / "server").as_uri())
    for first, last in ((1, 4), (3, 6)):  # back to the checkpoint of step 2
        run = MlflowRun(tmp_path, "beit3", {"model.dim": 192}, first)
        for step in range(first, last + 1):
            run.write(step, 1000.0 + step, {"loss": first + step / 10, "loss/mim": 1.0})
        run.close()
    client, identity = MlflowClient(), read_tracking_id(tmp_path, SERVER)
    history = [(metric.step, metric.value) for metric in client.get_metric_history(identity, "loss")]
    assert sorted(history) == [(1, 1.1), (2, 1.2), (3, 1.3), (4, 1.4), (5, 3.5), (6, 3.6)]
    found = client.get_run(identity)
    assert found.data.tags["restarts"] == "2" and found.data.params["model.dim"] == "192"
    assert found.info.status == "FINISHED" and "loss.mim" in found.data.metrics
