"""RESULTS.md, with a section per run."""

import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

RESULTS = Path(__file__).with_name("RESULTS.md")
_HEADER = """# Results of benchmarks

`vs_NAME` is ours divided by the peer of that name, the median of runs that took turns. A commit with `+` had changes.
"""


def append_results(name: str, figures: dict[str, float]) -> None:
    """Append a table of the figures, below hardware, commit and command."""
    lines = [
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {figure} | {value:.4g} |" for figure, value in figures.items()),
    ]
    append_section(name, lines, f"tests.benchmarks.{name}")


def append_section(name: str, lines: list[str], module: str) -> None:
    """Append lines of Markdown below hardware, commit and the command that started the module."""
    command = f"python -m {module} {shlex.join(sys.argv[1:])}".strip()
    content = RESULTS.read_text() if RESULTS.is_file() else _HEADER
    content += f"\n## {name}, {date.today()}\n\n{_hardware()}; commit {_commit()}; `{command}`\n\n"
    RESULTS.write_text(content + "".join(f"{line}\n" for line in lines))


def _hardware() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} cores of {names[0]}" if names else "unknown"
    if not torch.cuda.is_available():
        return processor
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {processor}"


def _commit() -> str:
    """Return the commit, with a plus if the tree has changes."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True, cwd=RESULTS.parent
    ).stdout.strip()
