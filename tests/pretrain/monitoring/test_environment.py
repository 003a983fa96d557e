"""The record of a run's starts. CPU, under a second."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.monitoring.environment import ENVIRONMENT_NAME, add_start, device_name, read_starts, versions


def ranks(*hosts: str, **other_versions: str) -> list[dict[str, Any]]:
    found = [{"rank": n, "host": host, "versions": {"torch": "2.13.0"}} for n, host in enumerate(hosts)]
    return [*found[:-1], {**found[-1], "versions": {"torch": "2.13.0", **other_versions}}]


def test_every_start_is_added_with_hosts_and_differing_versions(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    add_start(tmp_path, 0, ranks("a", "b"))
    add_start(tmp_path, 300, ranks("c", "d", torch="2.12.0"))
    first, second = read_starts(tmp_path)
    assert (first["first_step"], second["first_step"]) == (0, 300) and first["time"] <= second["time"]
    assert first["ranks"] == [{"rank": 0, "host": "a"}, {"rank": 1, "host": "b"}]
    assert second["ranks"][1] == {"rank": 1, "host": "d", "versions": {"torch": "2.12.0"}}
    assert first["versions"] == {"torch": "2.13.0"}


def test_a_damaged_file_is_set_aside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ENVIRONMENT_NAME).write_text("{damaged")
    add_start(tmp_path, 0, ranks("a"))
    assert len(read_starts(tmp_path)) == 1 and (tmp_path / f"{ENVIRONMENT_NAME}.damaged").read_text() == "{damaged"
    assert capfd.readouterr().err.startswith(f"warning: {tmp_path / ENVIRONMENT_NAME} is not a list of starts; moved")


def test_this_process_is_described() -> None:
    found = versions()
    assert found["torch"] == torch.__version__ and found["python"].startswith("3.") and "deepspeed" in found
    assert device_name(torch.device("cpu")) == "cpu"
