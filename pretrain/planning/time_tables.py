"""Predicted times as text: a step by part with the assumptions of each, and the stages on numbers of ranks."""

from pretrain.planning.assumptions import GPUS, Origin, origin_of
from pretrain.planning.roofline import ASSUMED, WAITING, StepTime
from pretrain.planning.sections import paragraph
from pretrain.planning.step_times import AssumedMachine, PredictedSetting

COLUMNS = {
    "ranks": 5, "stage": 10, "micro-steps": 13, "GB": 7, "compute s": 11, "network s": 11, "host s": 9, "step s": 9,
    "MFU": 7, "waits for the host": 20,
}  # fmt: skip
"""Columns of the table of ranks, and their widths. Seconds of computation, of the network and of the host overlap; the
last column is the share of the step in which the GPU waits for the host."""


def part_table(time: StepTime, title: str, machine: AssumedMachine) -> str:
    """Return a table of the milliseconds of a step by part, and the assumptions that each depends on."""
    gpu = machine.gpu
    lines = [
        f"a step on {title}, predicted for {time.peak_flops / 1e12:g} TFLOP/s, {gpu.memory_tb:g} TB/s "
        f"({'published' if gpu in GPUS.values() else 'assumed'}) and the longest captions and texts; not measured",
        f"{'part':34}{'ms':>10}{'share':>8}  origin, see --help",
    ]
    for part, seconds in time.parts.items():
        said = "assumed and measured: the host, below" if part == WAITING else by_origin(ASSUMED[part], machine)
        lines.append(f"{part:34}{seconds * 1e3:>10.1f}{seconds / time.seconds:>8.1%}  {said}")
    lines.append(f"{'step':34}{time.seconds * 1e3:>10.1f}{1:>8.1%}  MFU {time.mfu:.2f}")
    lines.append(paragraph(f"the host, measured on a CPU: {by_origin(ASSUMED[WAITING], machine)}"))
    lines.append(
        f"the host works {time.host * 1e3:.0f} ms of it ({time.host / time.seconds:.0%}), the network "
        f"{time.communication * 1e3:.0f} ms ({time.communication / time.seconds:.0%})"
    )
    return "\n".join(lines)


def by_origin(names: tuple[str, ...], machine: AssumedMachine) -> str:
    """Return the figures behind a time, by where they come from: "assumed: copy_share 0.9; counted: ..."."""
    found: dict[Origin, list[str]] = {}
    for name in names:
        found.setdefault(origin_of(name, machine.assumed), []).append(f"{name} {machine.figure(name):g}")
    return "; ".join(f"{origin}: {', '.join(figures)}" for origin, figures in found.items())


def rank_table(by_ranks: dict[int, list[PredictedSetting]]) -> str:
    """Return a table of the settings that fit, by number of ranks, the fastest first."""
    lines = ["".join(f"{name:>{width}}" for name, width in COLUMNS.items())]
    for num_ranks, settings in by_ranks.items():
        lines += [rank_row(num_ranks, found) for found in settings] or [_row(str(num_ranks), "none fits")]
    return "\n".join(lines)


def rank_row(num_ranks: int, found: PredictedSetting) -> str:
    """Return a line of the table."""
    setting, time = found.setting, found.time
    seconds = (time.compute, time.communication, time.host, time.seconds)
    return _row(
        str(num_ranks), setting.name, str(setting.micro_steps), f"{setting.memory / 1e9:.1f}",
        *(f"{figure:.3f}" for figure in seconds), f"{time.mfu:.2f}", f"{time.host_share:.0%}",
    )  # fmt: skip


def _row(*cells: str) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=False))
