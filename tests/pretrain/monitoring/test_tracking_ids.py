"""Ids at tracking servers outlive a start, and a damaged file. CPU, under a second."""

from pathlib import Path

from pretrain.monitoring.tracking_ids import TRACKING_NAME, read_tracking_id, write_tracking_id


def test_ids_of_several_servers_are_kept(tmp_path: Path) -> None:
    assert read_tracking_id(tmp_path, "wandb") is None
    write_tracking_id(tmp_path, "wandb", "a1")
    write_tracking_id(tmp_path, "mlflow", "b2")
    assert (read_tracking_id(tmp_path, "wandb"), read_tracking_id(tmp_path, "mlflow")) == ("a1", "b2")
    (tmp_path / TRACKING_NAME).write_text("[damaged")
    assert read_tracking_id(tmp_path, "wandb") is None
    write_tracking_id(tmp_path, "wandb", "c3")
    assert read_tracking_id(tmp_path, "wandb") == "c3"
