"""Fuzz the readers of other people's files: python -m tests.fuzz [--minutes 10] [--seed 0] [--targets tars images ...]

Every case is a function of the seed and its number. Failures are printed with the command that repeats them.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.fuzz import checkpoints, images, indexes, tars, tasks, texts
from tests.fuzz.watched import Case, FuzzResult, run_cases

TARGETS: dict[str, Callable[[Path], Case]] = {
    "tars": tars.make_case,
    "indexes": indexes.make_case,
    "images": images.make_case,
    "texts": texts.make_case,
    "tasks": tasks.make_case,
    "checkpoints": checkpoints.make_case,
}


@dataclass(frozen=True)
class FuzzOptions:
    """Damaged and hostile files for the readers of files."""

    minutes: float = 10.0
    """Minutes for all targets together, divided equally."""
    seed: int = 0
    """Seed of the cases."""
    targets: tuple[str, ...] = tuple(TARGETS)
    """Targets to fuzz."""
    first: int = 0
    """Number of the first case."""
    max_cases: int = 1_000_000_000
    """Number of cases per target."""


def main() -> None:
    options = tyro.cli(FuzzOptions, prog="python -m tests.fuzz")
    num_failures = 0
    for name in options.targets:
        seconds = options.minutes * 60 / len(options.targets)
        result = run_cases(TARGETS[name], options.seed, options.first, options.max_cases, seconds)
        report(name, options.seed, result)
        num_failures += len(result.failures)
    sys.exit(1 if num_failures else 0)


def report(name: str, seed: int, result: FuzzResult) -> None:
    for number, failure in result.failures.items():
        again = f"python -m tests.fuzz --targets {name} --seed {seed} --first {number} --max-cases 1"
        print(f"{failure}\n{name}: case {number} failed; {again}")
    outcomes = " ".join(f"{outcome.replace(' ', '_')}={count}" for outcome, count in sorted(result.outcomes.items()))
    growth = result.max_growth_bytes // 1_000_000
    print(f"{name}: cases={result.num_cases} failures={len(result.failures)} growth_mb={growth} {outcomes}", flush=True)


if __name__ == "__main__":
    main()
