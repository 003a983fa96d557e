"""python -m tests.benchmarks.bench_data [--quick]: shards to batches, compared with open_clip and the bare decoder.

Its photographs need scikit-image and scikit-learn; its peers are open_clip_torch and simplejpeg. Missing packages
are reported in one line that installs them all.

Every loader runs in the same number of worker processes on the same shards, taking turns for several rounds:
only ratios are meaningful. `core` is the CPU time of all processes together, so a busy machine distorts it less.
"""

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil
import tyro

from tests.benchmarks import data_loaders
from tests.benchmarks.large_index import NUM_SHARDS as NUM_INDEX_SHARDS
from tests.benchmarks.large_index import measure_large_index
from tests.benchmarks.packages import require_packages
from tests.benchmarks.photographs import PACKAGES, load_photographs, write_photograph_shards
from tests.benchmarks.results import append_results
from tests.benchmarks.texts import train_tokenizer, write_text_shards

SIZES = ((500, 375), (1024, 768))
NUM_SHARDS = 8
MIN_CPU_SECONDS = 0.2
"""Minimum CPU time to measure a rate: twenty ticks of the CPU clock."""
WARM_UP_BATCHES = 3
"""Batches per process after which workers have started and their prefetched batches are used up."""


@dataclass(frozen=True)
class BenchOptions:
    """Images and tokens per second."""

    quick: bool = False
    """Run for less than a minute, less precisely."""
    num_processes: int = 1
    """Number of worker processes of every loader."""
    batch_size: int = 64
    """Samples per batch; --quick divides it by four."""
    rounds: int = 5
    """Number of rounds; 2 with --quick."""
    texts: Path | None = None
    """Folder of *.jsonl with "text" for the text figures; default: the topics of Python's help."""
    index: bool = True
    """Also open an index of 21 million pairs; with --quick, of 2.1 million."""
    append: bool = False
    """Append the figures to tests/benchmarks/RESULTS.md."""


@dataclass(frozen=True)
class Rate:
    """Units per second of wall time for each process, and of CPU time."""

    process: float
    core: float


Loader = Callable[[], Any]
Counter = Callable[[Any], int]


def main() -> None:
    options = tyro.cli(BenchOptions, prog="python -m tests.benchmarks.bench_data")
    try:
        require_packages(PACKAGES, data_loaders.PEER_PACKAGES)
        with tempfile.TemporaryDirectory() as folder:
            rows = _rows(options, Path(folder))
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.append:
        append_results(Path(__file__).stem, rows)
    print(" ".join(f"{name}={value:.4g}" for name, value in rows.items()))


def _rows(options: BenchOptions, folder: Path) -> dict[str, float]:
    """Measure and print everything; return the figures by name."""
    figures: dict[str, float] = {}
    tokenizer = train_tokenizer(options.texts, folder / "tokenizer.spm")
    photographs = load_photographs()
    batch_size = options.batch_size // (4 if options.quick else 1)
    print(f"{'data':9} {'loader':12} {'a process':>10} {'a core':>10}  unit a second; ours / it, by both")
    for size in SIZES:
        shards = folder / f"pairs_{size[0]}"
        shards.mkdir()
        write_photograph_shards(shards, photographs, size, NUM_SHARDS, 10 if options.quick else 50)
        loaders = data_loaders.pair_loaders(shards, tokenizer, batch_size, options.num_processes)
        rates = _interleaved(options, loaders, lambda batch: batch_size)
        figures |= _table(f"{size[0]}x{size[1]}", "images", rates)
    shards = folder / "texts"
    shards.mkdir()
    write_text_shards(shards, options.texts, tokenizer, NUM_SHARDS)
    loaders = data_loaders.text_loaders(shards, tokenizer, batch_size, options.num_processes)
    figures |= _table("texts", "tokens", _interleaved(options, loaders, data_loaders.num_tokens))
    if options.index:
        num_shards = NUM_INDEX_SHARDS // (10 if options.quick else 1)
        measured = measure_large_index(folder / "large", tokenizer.path, num_shards)
        print("".join(f"{name:20} {value:.3g}\n" for name, value in measured.items()), end="")
        figures |= measured
    return figures


def _interleaved(options: BenchOptions, loaders: dict[str, Loader], count: Counter) -> dict[str, list[Rate]]:
    """Return the rates of each loader, one per round."""
    rates: dict[str, list[Rate]] = {name: [] for name in loaders}
    for _ in range(2 if options.quick else options.rounds):
        for name, make in loaders.items():
            rates[name].append(_rate(make(), options, count))
    return rates


def _rate(loader: Any, options: BenchOptions, count: Counter) -> Rate:
    batches = iter(loader)
    for _ in range(WARM_UP_BATCHES * options.num_processes):
        next(batches)
    start, cpu_start = perf_counter(), _cpu_seconds()
    num_batches, num_units, cpu = (4 if options.quick else 8) * options.num_processes, 0, 0.0
    while cpu < MIN_CPU_SECONDS:  # a fast machine yields batches before the clock ticks
        num_units += sum(count(next(batches)) for _ in range(num_batches))
        cpu = _cpu_seconds() - cpu_start
    return Rate(num_units / (perf_counter() - start) / options.num_processes, num_units / cpu)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and its workers."""
    own = psutil.Process()
    times = [process.cpu_times() for process in [own, *own.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def _table(data: str, unit: str, rates: dict[str, list[Rate]]) -> dict[str, float]:
    """Print and return medians over the rounds; a ratio compares two loaders in the same round."""
    figures: dict[str, float] = {}
    for name, found in rates.items():
        process, core = median(rate.process for rate in found), median(rate.core for rate in found)
        pairs = list(zip(rates["ours"], found, strict=True))
        versus = median(ours.process / rate.process for ours, rate in pairs)
        versus_core = median(ours.core / rate.core for ours, rate in pairs)
        print(f"{data:9} {name:12} {process:10.0f} {core:10.0f}  {unit}  {versus:.2f} {versus_core:.2f}", flush=True)
        figures |= {f"{data}_{name}_per_process": process, f"{data}_{name}_per_core": core}
        if name != "ours":
            figures |= {f"{data}_vs_{name}": versus, f"{data}_vs_{name}_core": versus_core}
    return figures


if __name__ == "__main__":
    main()
