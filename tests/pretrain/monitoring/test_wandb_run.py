"""A run at Weights & Biases, offline: under one id over restarts. CPU; skipped without wandb."""

from pathlib import Path

import pytest

pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")

from pretrain.monitoring.tracking_ids import read_tracking_id
from pretrain.monitoring.wandb_run import SERVER, WandbRun


def test_a_resumed_run_goes_on_under_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for first in (1, 3):
        run = WandbRun(tmp_path, "beit3", {"model.dim": 192}, first)
        for step in range(first, first + 3):
            run.write(step, 1000.0 + step, {"loss": 1.0 / step, "loss/mim": 1.0})
        run.close()
        ids.append(read_tracking_id(tmp_path, SERVER))
    assert ids[0] is not None and ids[0] == ids[1]
    folders = list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))
    assert len(folders) == 2 and all(list(folder.glob("*.wandb")) for folder in folders)
    assert "".join(capfd.readouterr()) == ""


def test_without_a_key_nothing_is_asked_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match="no API key: run wandb login, or set WANDB_MODE=offline"):
        WandbRun(tmp_path, "beit3", {}, 1)
