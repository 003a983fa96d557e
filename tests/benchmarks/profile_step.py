"""Time of a step by category: python -m tests.benchmarks.profile_step [--out step.png] [--append]

--out needs matplotlib.

Steps of bench_step.py under torch.profiler: on a GPU the giant as in its recipe, by kernels on the device's clock; on
a CPU base with four layers, by operations of torch. `communication` is the time in which nothing else runs, `idle` that
in which nothing runs: a GPU waits for the host, or Python runs between operations on a CPU. The profiler itself costs
time, most of it in `idle`.

`predicted` is the time by the assumptions of `python -m pretrain.plan`, whose names stand beside it: those of a row
that is far from measured are wrong. On a CPU, products and copies are predicted from their speeds, measured at the
start, and kernels `compile` as `reference`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.profiler import ProfilerActivity, profile, record_function

from model.config import KernelChoice
from tests.benchmarks.bench_step import OURS, start, warmed_up
from tests.benchmarks.packages import require_packages
from tests.benchmarks.results import append_results
from tests.benchmarks.step_cases import Case, dry_case, make_case, random_batch
from tests.benchmarks.step_engines import PEER_PACKAGES, Competitor
from tests.benchmarks.step_prediction import Prediction, machine_of, predicted
from tests.benchmarks.step_timeline import CATEGORIES, read_trace, seconds_of

Seconds = dict[str, dict[str, float]]
COLORS = dict(zip(CATEGORIES, ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb"), strict=True))

NOT_PREDICTED_ON_A_CPU = (
    "attention, communication and idle are not predicted on a CPU: only the speeds of products and copies are measured "
    "at the start, and host and device are one"
)


@dataclass(frozen=True)
class ProfileOptions:
    """Time of a step by category."""

    size: Literal["base", "large", "giant"] | None = None
    """Recipe; None: giant on a GPU, base on a CPU."""
    depth: int | None = None
    """Layers; None: 4 on a CPU, else the recipe's."""
    samples: int | None = None
    """Number of images, of pairs and of texts per step; None: 32 on a GPU, 4 on a CPU."""
    kernels: KernelChoice | Literal["torchscale"] | None = None
    """Variant to profile; None: our fastest. torchscale has no giant."""
    steps: int = 2
    """Number of steps under the profiler."""
    threads: int = 2
    """CPU threads."""
    out: Path | None = None
    """File to write a picture to."""
    dry: bool = False
    """Profile a tiny network, to see whether everything runs."""
    append: bool = False
    """Write the figures into RESULTS.md."""


def main() -> None:
    options = tyro.cli(ProfileOptions, description=__doc__)
    needed = PEER_PACKAGES if options.kernels == "torchscale" else {}
    require_packages({**needed, **({"matplotlib": "matplotlib"} if options.out else {})})  # before a long run
    device = start(options.threads)
    on_gpu = device.type == "cuda"
    size = options.size or ("giant" if on_gpu else "base")
    case = dry_case(on_gpu) if options.dry else make_case(
        size, options.samples or (32 if on_gpu else 4), recipe=f"beit3_{size}", is_decoupled=size != "giant",
        depth=options.depth or (None if on_gpu else 4), on_gpu=on_gpu,
    )  # fmt: skip
    variant = options.kernels or ("reference" if options.dry else OURS[device.type][-1])  # compiles nothing if dry
    machine = None if variant == "torchscale" else machine_of(device)
    competitor, measured = warmed_up(variant, case, random_batch(case.config, device))
    seconds = profiled(competitor, options.steps)
    title = f"{case.name}, {case.model.depth} layers, {variant}: {case.num_tokens} tokens per step"
    if measured.num_parts > 1:
        title += f" in {measured.num_parts} parts"
    beside = {}
    if machine is not None:
        beside = predicted(case, variant, measured.num_parts, machine, device)
    print_tables(title, seconds, options.steps, beside)
    if not on_gpu:
        print(NOT_PREDICTED_ON_A_CPU)
    if options.out is not None:
        draw(title, seconds, options.steps, options.out)
    figures = figures_of(case, seconds, options.steps, beside)
    if options.append:
        append_results("profile_step", figures)
    print(" ".join(f"{name}={value:.4g}" for name, value in figures.items()))


def profiled(competitor: Competitor, num_steps: int) -> Seconds:
    """Return seconds by category and name, summed over the steps."""
    is_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities) as profiler, record_function("steps"):
        for _ in range(num_steps):
            competitor.step()
        if is_gpu:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return seconds_of(read_trace(trace, "steps", "optimizer"))


def figures_of(case: Case, seconds: Seconds, num_steps: int, beside: dict[str, Prediction]) -> dict[str, float]:
    whole = sum(sum(names.values()) for names in seconds.values())
    figures = {f"{case.name}_step_seconds": whole / num_steps}
    for category, names in seconds.items():
        figures[f"{case.name}_{category.replace('-', '_')}_share"] = sum(names.values()) / whole
    for category, prediction in beside.items():
        figures[f"{case.name}_{category.replace('-', '_')}_predicted_seconds"] = prediction.seconds
    return figures


def print_tables(title: str, seconds: Seconds, num_steps: int, beside: dict[str, Prediction]) -> None:
    """Print the time by category, measured beside predicted, and the kernels or operations that take longest."""
    whole = sum(sum(names.values()) for names in seconds.values())
    print(f"\n{title}\n{'category':<16}{'ms a step':>12}{'share':>9}{'predicted':>12}  by the assumptions")
    for category, names in seconds.items():
        total = sum(names.values())
        line = f"{category:<16}{total / num_steps * 1e3:>12.2f}{total / whole:>9.1%}"
        if (found := beside.get(category)) is not None:
            line += f"{found.seconds * 1e3:>12.2f}  {', '.join(found.assumptions)}"
        print(line)
    longest = sorted(
        ((took, category, name) for category, names in seconds.items() for name, took in names.items()), reverse=True
    )
    print(f"\n{'longest':<16}{'ms a step':>12}{'share':>9}")
    for took, category, name in longest[:16]:
        print(f"{category:<16}{took / num_steps * 1e3:>12.2f}{took / whole:>9.1%}  {name[:80]}")


def draw(title: str, seconds: Seconds, num_steps: int, path: Path) -> None:
    """Draw a bar per category."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    totals = {category: sum(names.values()) / num_steps * 1e3 for category, names in seconds.items()}
    whole = sum(totals.values())
    figure, axes = pyplot.subplots(figsize=(8, 2.8), layout="constrained")
    bars = axes.barh(list(totals), list(totals.values()), color=[COLORS[category] for category in totals])
    axes.bar_label(bars, [f"{total / whole:.1%}" for total in totals.values()], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds a step")
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
