"""Checks of the machine: limits of the operating system, memory, Slurm, names. Nothing here imports torch."""

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from data_pipeline.settings.command_line import num_cores
from pretrain.diagnosis.demands import Demands
from pretrain.diagnosis.findings import Finding

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED_BYTES = 1_000_000_000
"""Shared memory below which NCCL or loader workers are likely to fail: containers of Docker have 64 MB."""
INFINIBAND = Path("/sys/class/infiniband")
CGROUP = Path("/sys/fs/cgroup")
THREADS_PER_PROCESS = 64
"""Threads that a rank or a loader worker may start: they count as processes of the user."""
_ANSWER_SECONDS = 10


def cores(demands: Demands) -> Iterator[Finding]:
    """Yield the number of cores that this process may use, beside the loader workers of the ranks here."""
    found, subject = num_cores(), "cores"
    if not demands.num_workers or found >= demands.ranks_here:
        yield Finding("ok", subject, f"{found} of {os.cpu_count()} may be used")
        return
    yield Finding(
        "warning",
        subject,
        f"{found} of {os.cpu_count()} may be used, fewer than the {demands.ranks_here} ranks of a machine, each with "
        f"{demands.num_workers} loader workers",
        "ask for more, under Slurm with --cpus-per-task, or start fewer ranks here",
    )


def memory(demands: Demands) -> Iterator[Finding]:
    """Yield the memory that is free, compared with the ranks' start, in which each holds the whole network."""
    free, total, subject = *memory_bytes(), "memory"
    text = f"{gb(free)} free of {gb(total)}"
    needed = demands.memory
    if needed <= free:
        used = f"; {demands.name} needs about {gb(needed)} on a machine of {demands.ranks_here} ranks" if needed else ""
        yield Finding("ok", subject, text + used)
        return
    yield Finding(
        "error" if needed > total else "warning",
        subject,
        f"{text}, but {demands.name} needs about {gb(needed)}: each of {demands.ranks_here} ranks starts with the "
        "whole network, and a checkpoint is copied before it is written",
        "start fewer ranks per machine, ask for more memory (sbatch --mem), or end other programs",
    )


def memory_bytes() -> tuple[int, int]:
    """Return the free and the total memory, both within the limit of this process's control group."""
    virtual, limit, used = psutil.virtual_memory(), _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    free, total = int(virtual.available), int(virtual.total)
    if limit is None:
        return free, total
    return min(free, max(0, limit - (used or 0))), min(total, limit)


def shared_memory(demands: Demands) -> Iterator[Finding]:
    """Yield the free bytes of /dev/shm, compared with the batches that loader workers leave there for their ranks."""
    subject = "shared memory"
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        yield Finding(
            "error", subject, f"{SHARED_MEMORY} cannot be read ({error.strerror}); loader workers and NCCL need it",
            "mount it: mount -t tmpfs tmpfs /dev/shm",
        )  # fmt: skip
        return
    free = status.f_bavail * status.f_frsize
    needed = max(demands.shared, LEAST_SHARED_BYTES)
    if free >= needed:
        used = f"; batches of {demands.name} take up to {gb(demands.shared)}" if demands.shared else ""
        yield Finding("ok", subject, f"{gb(free)} free in {SHARED_MEMORY}{used}")
        return
    reason = f"batches of {demands.name} on their way from loader workers take up to {gb(demands.shared)}"
    yield Finding(
        "error" if free < demands.shared else "warning",
        subject,
        f"{gb(free)} free in {SHARED_MEMORY}, "
        + (f"but {reason}" if free < demands.shared else f"less than the {gb(LEAST_SHARED_BYTES)} that NCCL may need"),
        f"start the container with --ipc=host or --shm-size={max(1, round(2 * needed / 1e9))}g, or, as root: mount -o "
        f"remount,size=50% {SHARED_MEMORY}" + (", or lower --data.num-workers" if free < demands.shared else ""),
    )


def open_files(demands: Demands) -> Iterator[Finding]:
    """Yield the limit of open files, compared with the shards that a loader worker keeps open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield from _limit(
        "open files",
        soft,
        hard,
        demands.open_files,
        "ulimit -n",
        counted(demands.num_sources or 1, "source") + " of shards",
    )


def processes(demands: Demands) -> Iterator[Finding]:
    """Yield the limit of processes and threads of this user and of this control group."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    group = _number(CGROUP / "pids.max")
    needed = demands.ranks_here * (demands.num_workers + 1) * THREADS_PER_PROCESS
    if group is not None and group < needed:
        yield Finding(
            "warning", "processes", f"this control group may have {group:,} processes and threads, of about {needed:,} "
            f"for {demands.ranks_here} ranks", f"start the container with --pids-limit {2 * needed}",
        )  # fmt: skip
        return
    yield from _limit("processes", soft, hard, needed, "ulimit -u", counted(demands.ranks_here, "rank"))


def locked_memory() -> Iterator[Finding]:
    """Yield the limit of locked memory, which InfiniBand needs without a limit."""
    soft, subject = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], "locked memory"
    shown = "no limit" if soft == resource.RLIM_INFINITY else f"limit {gb(soft)}"
    adapters = sorted(path.name for path in INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []
    if not adapters:
        yield Finding("ok", subject, f"{shown}; no InfiniBand adapter here, which would need no limit")
    elif soft == resource.RLIM_INFINITY:
        yield Finding("ok", subject, f"{shown}, as InfiniBand needs ({', '.join(adapters)})")
    else:
        yield Finding(
            "warning",
            subject,
            f"{shown}, but NCCL over InfiniBand ({', '.join(adapters)}) needs no limit",
            "ulimit -l unlimited; for jobs of Slurm LimitMEMLOCK=infinity in the unit of slurmd; for Docker "
            "--ulimit memlock=-1",
        )


def address_space() -> Iterator[Finding]:
    """Yield the limits of address space, which CUDA and mapped indexes use far beyond the memory, and of file sizes."""
    for subject, kind, option, reason in (
        ("address space", resource.RLIMIT_AS, "ulimit -v", "CUDA and torch reserve far more than they use"),
        ("file size", resource.RLIMIT_FSIZE, "ulimit -f", "checkpoints are larger than that"),
    ):
        soft = resource.getrlimit(kind)[0]
        if soft == resource.RLIM_INFINITY:
            yield Finding("ok", subject, "no limit")
        else:
            yield Finding("warning", subject, f"limit {gb(soft)}, but {reason}", f"{option} unlimited")


def host_name() -> Iterator[Finding]:
    """Yield the address of this host's name, by which gloo connects ranks unless an interface is given."""
    name, subject = socket.gethostname(), "host name"
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    if interface:
        yield Finding("ok", subject, f"{name}; gloo uses the interface {interface} (GLOO_SOCKET_IFNAME)")
        return
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield Finding(
            "warning", subject, f"{name} has no address ({error}), by which gloo connects the ranks",
            f"add '127.0.1.1 {name}' to /etc/hosts, or set GLOO_SOCKET_IFNAME to an interface of ip -br address",
        )  # fmt: skip
        return
    yield Finding("ok", subject, f"{name} is {address}")


def slurm() -> Iterator[Finding]:
    """Yield whether Slurm is installed, answers, and has started this process."""
    subject = "Slurm"
    if "SLURM_JOB_ID" in os.environ:
        found = {name: os.environ.get(f"SLURM_{name}", "?") for name in ("JOB_ID", "JOB_NUM_NODES", "NTASKS")}
        text = "in job {JOB_ID} with {NTASKS} tasks on {JOB_NUM_NODES} nodes".format(**found)
        yield Finding("ok", subject, text)
        return
    if shutil.which("sinfo") is None:
        yield Finding("ok", subject, "not installed here; deepspeed starts the ranks")
        return
    version = _printed("sinfo", "--version") or "of an unknown version"
    answer = subprocess.run(
        ["sinfo", "--noheader", "--format=%P"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
    )
    if answer.returncode == 0:
        partitions = ", ".join(answer.stdout.split()) or "none"
        yield Finding("ok", subject, f"{version.removeprefix('slurm ')}, not in a job; partitions: {partitions}")
    elif "configuration source" in answer.stderr:
        yield Finding("ok", subject, "installed, but not configured here; deepspeed starts the ranks")
    else:
        reason = (answer.stderr.strip().splitlines() or ["it gives no reason"])[-1]
        yield Finding(
            "warning", subject, f"{version.removeprefix('slurm ')} is installed, but its controller does not answer "
            f"({reason})", "submit from a login node, or wait until scontrol ping reports UP",
        )  # fmt: skip


def gb(num_bytes: float) -> str:
    """Return bytes in the largest unit of which there is at least one: 1.9 TB, 24 GB, 64 MB."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            value = num_bytes / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: 1 rank, 2 ranks."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _limit(subject: str, soft: int, hard: int, needed: int, option: str, reason: str) -> Iterator[Finding]:
    if soft == resource.RLIM_INFINITY or soft >= needed:
        shown = "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft:,}"
        yield Finding("ok", subject, f"{shown}; about {needed:,} for {reason}")
        return
    may_raise = hard == resource.RLIM_INFINITY or hard >= needed
    remedy = f"{option} {needed} before the start" if may_raise else f"as root, raise the hard limit {hard:,} first"
    remedy += "" if may_raise else f" (/etc/security/limits.conf), then {option} {needed}"
    yield Finding("warning", subject, f"limit {soft:,}, less than about {needed:,} for {reason}", remedy)


def _number(path: Path) -> int | None:
    """Return the number in a file of a control group, None if there is no limit or no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _printed(*command: str) -> str:
    """Return the first line that a command prints, empty if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    return (ended.stdout.strip().splitlines() or [""])[0] if ended.returncode == 0 else ""
