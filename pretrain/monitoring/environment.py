"""RUN/environment.json: where each start of a run ran, and with which versions, so that a report can draw restarts.

    {"starts": [{"time": Unix seconds, "first_step": steps done before it, "versions": {"torch": "2.13.0", ...},
                 "ranks": [{"rank": 0, "host": ..., "device": ..., "process": ..., "cores": ...}, ...]}, ...]}

A rank whose versions differ from those of rank 0 has its own `versions`.
"""

import json
import os
import platform
import socket
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.survival.console import warn

ENVIRONMENT_NAME = "environment.json"
PACKAGES = ("torch", "deepspeed", "numpy", "pillow", "triton", "flash-attn", "apex", "transformers")
"""Packages whose versions are noted if they are installed."""
PROJECT = Path(__file__).parents[2]


def describe_ranks(device: torch.device) -> list[dict[str, Any]]:
    """Return where each rank runs. All ranks call it; device: this rank's."""
    own = {
        "rank": dist.get_rank(),
        "host": socket.gethostname(),
        "device": device_name(device),
        "process": os.getpid(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
    }
    ranks: list[dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(ranks, own)
    return ranks


def device_name(device: torch.device) -> str:
    """Return a device with the name of its GPU: 'cuda:3, NVIDIA H100 80GB HBM3'."""
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """Return versions of Python, the packages that compute, CUDA and NCCL, of this process."""
    found = {"python": platform.python_version(), "kernel": platform.release()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    found["torch"] = torch.__version__  # with its build, such as +cu130, which the package's own version may lack
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    if torch.cuda.is_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
        found["gpu_driver"] = gpu_driver()
    return found


def gpu_driver() -> str:
    """Return the version of NVIDIA's driver, as its kernel module reports it; empty if it does not."""
    with suppress(OSError):
        return Path("/sys/module/nvidia/version").read_text().strip()
    return ""


def commit() -> str:
    """Return the commit of the checkout, with a + if files differ from it; empty if it is not one."""
    with suppress(OSError, subprocess.SubprocessError):
        command = [
            "git",
            "--no-optional-locks",
            "-C",
            str(PROJECT),
            "describe",
            "--always",
            "--abbrev=12",
            "--exclude=*",
            "--dirty=+",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the starts of a run, oldest first; [] if there is no valid file."""
    with suppress(OSError, ValueError):
        content = json.loads((run_dir / ENVIRONMENT_NAME).read_text())
        starts = content.get("starts") if isinstance(content, dict) else None
        if isinstance(starts, list):
            return [entry for entry in starts if isinstance(entry, dict)]
    return []


def add_start(run_dir: Path, first_step: int, ranks: list[dict[str, Any]]) -> None:
    """Add this start to the file; ranks: of `describe_ranks`. Main rank. Raises OSError."""
    path = run_dir / ENVIRONMENT_NAME
    starts = read_starts(run_dir)
    if not starts and path.exists():
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        warn(f"warning: {path} is not a list of starts; moved to {aside.name}")
    common = ranks[0]["versions"]
    of_ranks = [
        {name: value for name, value in rank.items() if name != "versions" or value != common} for rank in ranks
    ]
    start = {
        "time": time.time(),
        "first_step": first_step,
        "commit": commit(),
        "versions": common,
        "ranks": of_ranks,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"starts": [*starts, start]}, indent=1) + "\n")
    partial.replace(path)
