"""Compile every kernel with the versions of Triton that builds of torch bring.

    python -m tests.triton_versions [3.6.0 3.7.0 3.9.0] [--sizes base large giant] [--append]

pip installs each version alone, into build/triton/VERSION, from where it is imported instead of the environment's;
torch and all else stay. Prints registers, spilled bytes and shared memory of every kernel; fails if a version does not
compile a kernel or spills a register. --append: add the table to tests/benchmarks/RESULTS.md.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.results import append_section

VERSIONS = ("3.6.0", "3.7.0", "3.9.0")
"""Versions of Triton: torch 2.11's, torch 2.13's, and the one whose interpreter runs the tests on a CPU."""
ROOT = Path(__file__).parents[1]
INSTALLED = ROOT / "build/triton"
Row = dict[str, Any]


def install(version: str) -> Path:
    """Return the folder of a version of Triton. It is complete or absent, as it gets its name last."""
    folder = INSTALLED / version
    if not folder.is_dir():
        partial = folder.with_name(f"{version}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--target", str(partial), f"triton=={version}"], check=True)
        partial.rename(folder)
    return folder


def compile_all(version: str, *arguments: str) -> list[Row]:
    """Return the rows of `python -m tests.ahead_of_time` with a version of Triton."""
    folder = install(version)
    environment = {**os.environ, "PYTHONPATH": str(folder), "TRITON_CACHE_DIR": str(INSTALLED / "cache" / version)}
    command = [sys.executable, "-m", "tests.ahead_of_time", "--json", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {row["triton"] for row in rows} == {version}
    return rows


def table(rows: list[Row]) -> list[str]:
    """Return a Markdown table: a line per kernel and size, a column per version and architecture."""
    targets = sorted({(row["triton"], row["arch"]) for row in rows})
    # a kernel that is compiled for several widths of a size has the most that one of them needs
    most: dict[tuple[str, str], dict[tuple[str, int], tuple[int, ...]]] = {}
    for row in rows:
        line = most.setdefault((row["kernel"], row["size"]), {})
        target, needs = (row["triton"], row["arch"]), (row["registers"], row["spilled_bytes"], row["shared"])
        line[target] = tuple(map(max, needs, line.get(target, needs)))
    lines = [
        "| kernel | size | " + " | ".join(f"{version}, sm_{arch}" for version, arch in targets) + " |",
        "| --- | --- | " + " | ".join("---:" for _ in targets) + " |",
    ]
    for (kernel, size), line in sorted(most.items()):
        cells = [" / ".join(map(str, line[target])) if target in line else "-" for target in targets]
        lines.append(f"| {kernel.lstrip('_')} | {size} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--sizes", nargs="+", default=["base", "large", "giant"])
    parser.add_argument("--append", action="store_true", help="append to RESULTS.md")
    args = parser.parse_args()
    rows: list[Row] = []
    for version in args.versions:
        found = compile_all(version, "--sizes", *args.sizes)
        spilled = [row for row in found if row["spilled_bytes"]]
        print(f"Triton {version}: {len(found)} kernels compiled, {len(spilled)} spill registers", flush=True)
        rows += found
    lines = table(rows)
    print("\n".join(lines))
    if args.append:
        text = (
            "Registers per thread / spilled bytes / bytes of shared memory, by version of Triton and GPU architecture."
        )
        append_section("triton_versions", [text, "", *lines], "tests.triton_versions")
    sys.exit(any(row["spilled_bytes"] for row in rows))


if __name__ == "__main__":
    main()
