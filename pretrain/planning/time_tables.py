"""Predicted times as text: a step by part with the assumptions of each, and the stages on numbers of ranks."""

from pretrain.planning.roofline import ASSUMED, WAITING, StepTime
from pretrain.planning.step_times import AssumedMachine, PredictedSetting


def part_table(time: StepTime, title: str, machine: AssumedMachine) -> str:
    """Return a table of the milliseconds of a step by part, and the assumptions that each depends on."""
    gpu = machine.gpu
    lines = [
        f"a step of {title}, predicted for {time.peak_flops / 1e12:g} TFLOP/s, {gpu.memory_tb:g} TB/s and the longest "
        "captions and texts; not measured",
        f"{'part':34}{'ms':>10}{'share':>8}  assumptions, see --help",
    ]
    for part, seconds in time.parts.items():
        names = ", ".join(f"{name} {getattr(machine.assumed, name):g}" for name in ASSUMED[part] if part != WAITING)
        lines.append(f"{part:34}{seconds * 1e3:>10.1f}{seconds / time.seconds:>8.1%}  {names}")
    lines.append(f"{'step':34}{time.seconds * 1e3:>10.1f}{1:>8.1%}  MFU {time.mfu:.2f}")
    host = ", ".join(f"{name} {getattr(machine.assumed, name):g}" for name in ASSUMED[WAITING])
    lines.append(f"assumptions on the host: {host}")
    lines.append(
        f"the host works {time.host * 1e3:.0f} ms of it ({time.host / time.seconds:.0%}), the network "
        f"{time.communication * 1e3:.0f} ms ({time.communication / time.seconds:.0%})"
    )
    return "\n".join(lines)


def rank_table(by_ranks: dict[int, list[PredictedSetting]]) -> str:
    """Return a table of the settings that fit, by number of ranks, the fastest first."""
    names = ("ranks", "stage", "micro-steps", "GB", "compute s", "network s", "host s", "step s", "MFU")
    lines = ["".join(f"{name:>12}" for name in names) + "  waits for the host"]
    for num_ranks, settings in by_ranks.items():
        lines += [rank_row(num_ranks, found) for found in settings]
        if not settings:
            lines.append(f"{num_ranks:>12}{'none fits':>12}")
    return "\n".join(lines)


def rank_row(num_ranks: int, found: PredictedSetting) -> str:
    """Return a line of the table."""
    setting, time = found.setting, found.time
    seconds = (time.compute, time.communication, time.host, time.seconds)
    figures = [f"{num_ranks:>12}{setting.name:>12}{setting.micro_steps:>12}{setting.memory / 1e9:>12.1f}"]
    figures += [f"{figure:>12.3f}" for figure in seconds]
    return "".join(figures) + f"{time.mfu:>12.2f}{time.host_share:>20.0%}"
