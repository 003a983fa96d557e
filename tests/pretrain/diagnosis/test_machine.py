"""Checks of limits, memory and Slurm, with injected values. No time at all."""

import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.diagnosis import machine
from pretrain.diagnosis.demands import Demands
from pretrain.diagnosis.findings import Finding

DEMANDS = Demands("giant", 8, 8, 4, 3, memory=120 * 10**9, shared=6 * 10**9)


def limits(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free, f_frsize=1))


def only(findings: Any) -> Finding:
    (found,) = findings
    assert isinstance(found, Finding) and (found.remedy or found.level == "ok")
    return found


def test_shared_memory_is_compared_with_the_batches_of_loader_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 64_000_000)
    assert only(machine.shared_memory(Demands())).level == "warning"
    found = only(machine.shared_memory(DEMANDS))
    assert found.level == "error" and "6.0 GB" in found.text and "--shm-size=12g" in found.remedy
    disk(monkeypatch, 24 * 10**9)
    assert only(machine.shared_memory(DEMANDS)).level == "ok"


def test_memory_is_compared_with_the_start_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, total, level in ((200, 200, "ok"), (100, 200, "warning"), (50, 60, "error")):
        monkeypatch.setattr(machine, "memory_bytes", lambda free=free, total=total: (free * 10**9, total * 10**9))
        assert only(machine.memory(DEMANDS)).level == level


def test_memory_is_that_of_the_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.memory_bytes() == (600_000, 1_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_bytes()[1] > 1_000_000


def test_a_limit_that_is_too_low_is_raised_by_the_user_or_by_root(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 256, 1_000_000)
    assert only(machine.open_files(DEMANDS)).remedy == f"ulimit -n {DEMANDS.open_files} before the start"
    limits(monkeypatch, 256, 512)
    assert "as root" in only(machine.processes(DEMANDS)).remedy
    limits(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert only(machine.open_files(DEMANDS)).level == only(machine.processes(DEMANDS)).level == "ok"


def test_a_container_that_may_have_few_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "pids.max").write_text("100")
    found = only(machine.processes(DEMANDS))
    assert found.level == "warning" and "--pids-limit" in found.remedy


def test_infiniband_needs_locked_memory_without_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits(monkeypatch, 8_000_000, 8_000_000)
    monkeypatch.setattr(machine, "INFINIBAND", tmp_path / "none")
    assert only(machine.locked_memory()).level == "ok"
    (tmp_path / "mlx5_0").mkdir()
    monkeypatch.setattr(machine, "INFINIBAND", tmp_path)
    found = only(machine.locked_memory())
    assert found.level == "warning" and "mlx5_0" in found.text and "ulimit -l unlimited" in found.remedy


def test_limits_of_address_space_and_file_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 10**9, 10**9)
    assert [one.level for one in machine.address_space()] == ["warning", "warning"]


def test_a_host_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", fail)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert "GLOO_SOCKET_IFNAME" in only(machine.host_name()).remedy
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert only(machine.host_name()).level == "ok"


def test_fewer_cores_than_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    assert only(machine.cores(DEMANDS)).level == "warning" and only(machine.cores(Demands())).level == "ok"


def test_slurm_in_a_job_absent_not_configured_and_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOB_ID", "JOB_NUM_NODES", "NTASKS"):
        monkeypatch.setenv(f"SLURM_{name}", "7")
    assert only(machine.slurm()).text == "in job 7 with 7 tasks on 7 nodes"
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert only(machine.slurm()).level == "ok"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    answers = {"--version": (0, "slurm 25.05.1\n", "")}

    def answer(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, *answers[command[1]])

    monkeypatch.setattr(subprocess, "run", answer)
    answers["--noheader"] = (1, "", "fatal: Could not establish a configuration source")
    assert only(machine.slurm()).level == "ok"
    answers["--noheader"] = (1, "", "slurm_load_partitions: Unable to contact slurm controller")
    found = only(machine.slurm())
    assert found.level == "warning" and "25.05.1" in found.text
    answers["--noheader"] = (0, "gpu*\ncpu\n", "")
    assert "gpu*, cpu" in only(machine.slurm()).text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(1.9e12, "1.9 TB"), (24.4e9, "24 GB"), (6e9, "6.0 GB"), (64e6, "64 MB"), (100, "0 kB")]
)
def test_bytes_are_in_the_largest_unit(num_bytes: float, text: str) -> None:
    assert machine.gb(num_bytes) == text
